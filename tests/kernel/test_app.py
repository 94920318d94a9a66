"""The app: asked to stop or to restart, from any thread; what it opens, and what it listens to, ends with it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from comfyk import App, Plugins, hookimpl
from comfyk.database import DatabaseError
from comfyk.events import SettingsChanged
from comfyk.settings import load_settings

SAY = """
class Say:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self):
        return {"ui": {"text": ["hello"]}}

NODE_CLASS_MAPPINGS = {"Say": Say}
"""


def make_app(base: Path, *added: object) -> App:
    plugins = Plugins()
    for plugin in added:
        plugins.register(plugin)
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


class Opened:
    engine: Any = None

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class SlowDatabases:
    """A plugin whose databases take their time."""

    def __init__(self) -> None:
        self.asked, self.go, self.database = threading.Event(), threading.Event(), Opened()

    @hookimpl
    def comfyk_open_database(self, name: str) -> Opened:
        self.asked.set()
        assert self.go.wait(30)
        if name == "broken":
            raise DatabaseError("torn")
        return self.database


@pytest.mark.parametrize("name", ["mine", "broken"])
async def test_a_database_that_nobody_waits_for_any_more_is_closed(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    slow = SlowDatabases()
    async with make_app(tmp_path, slow) as app:
        task = asyncio.create_task(app.open_database(name))
        assert await asyncio.to_thread(slow.asked.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not slow.database.closed.is_set()
        slow.go.set()
        if name == "mine":
            assert await asyncio.to_thread(slow.database.closed.wait, 30)
    assert ("torn" in caplog.text) is (name == "broken")


async def test_a_stopped_app_is_told_nothing_and_logs_nothing_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "comfyk.jobs")
    plugins = Plugins()
    settings = load_settings(plugins, toml=tmp_path / "comfyk.toml", overrides={"folders.base": tmp_path})
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "custom_nodes" / "say.py").write_text(SAY)
    first, second = App(settings, plugins), App(settings, plugins)
    told: list[str] = []
    for app, name in ((first, "first"), (second, "second")):
        app.events.subscribe(lambda event, name=name: told.append(name), SettingsChanged)
    for _ in range(2):
        async with first:
            pass
    async with second, first:
        submission = await first.jobs.submit({"1": {"class_type": "Say", "inputs": {}}})
        await first.jobs.wait(submission.job.id)
        await first.stop()
        settings.change("jobs.max_attempts", 5)
        first.events.deliver()
        second.events.deliver()
    assert told == ["second"]
    assert [line for line in caplog.messages if line.startswith("got prompt")] == [
        f"got prompt {submission.job.id}"
    ]
