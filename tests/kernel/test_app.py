"""The app: asked to stop or to restart, from any thread."""

from __future__ import annotations

import asyncio
import itertools
import threading
from pathlib import Path

import pytest
from comfyk import App, Plugins
from comfyk.database import DatabaseError
from comfyk.settings import load_settings


def make_app(base: Path) -> App:
    plugins = Plugins()
    return App(load_settings(plugins, overrides={"folders.base": base}), plugins)


@pytest.mark.parametrize("asked", list(itertools.product([True, False], repeat=3)))
async def test_of_stops_and_restarts_the_stop_counts(tmp_path: Path, asked: tuple[bool, ...]) -> None:
    async with make_app(tmp_path) as app:
        for restart in asked:
            thread = threading.Thread(target=app.request_stop, args=(restart,))
            thread.start()
            thread.join()
        await asyncio.wait_for(app.wait_for_stop(), 10)
        assert app.restarting is all(asked)


async def test_a_database_that_no_plugin_offers_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with make_app(tmp_path) as app:
        with pytest.raises(DatabaseError, match="comfyk plugin enable storage"):
            await app.open_database("mine")
