"""The hooks of the plugin, as the kernel calls them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import comfyk_storage.plugin as plugin
import pluggy
import pytest
from comfyk import hookspecs
from comfyk_storage.job_store import SqlJobStore
from pydantic import ValidationError


def app(folder: Path, **settings) -> SimpleNamespace:
    section = plugin.StorageSettings(**settings)
    return SimpleNamespace(
        settings=SimpleNamespace(section=lambda name, model: section if name == "storage" else None),
        folders=SimpleNamespace(user=folder),
    )


def open_store(app: SimpleNamespace) -> SqlJobStore:
    return plugin.comfyk_open_job_store(app)  # type: ignore[arg-type, return-value]


def test_the_hooks_are_those_that_the_kernel_calls():
    manager = pluggy.PluginManager("comfyk")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    assert {hook.name for hook in manager.get_hookcallers(plugin) or []} == {
        "comfyk_register_settings",
        "comfyk_open_job_store",
        "comfyk_open_database",
        "comfyk_doctor",
        "comfyk_snapshot",
    }


def test_all_settings_have_defaults():
    assert plugin.comfyk_register_settings() == {"storage": plugin.StorageSettings}
    defaults = plugin.StorageSettings()  # type: ignore[call-arg]
    assert (defaults.database_url, defaults.synchronous) == (None, "normal")
    assert (defaults.history_limit, defaults.history_max_age_days, defaults.busy_timeout_s) == (
        10_000,
        None,
        5,
    )


@pytest.mark.parametrize(
    "wrong",
    [{"synchronous": "off"}, {"history_limit": -1}, {"history_max_age_days": 0}, {"busy_timeout_s": -1}],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError):
        plugin.StorageSettings(**wrong)


async def test_the_database_is_in_the_user_folder(tmp_path, make_job):
    folder = tmp_path / "user #1"
    store = open_store(app(folder))
    await store.add(make_job("a"))
    await store.close()
    assert (folder / "comfyk.db").is_file()


async def test_the_settings_reach_the_store(tmp_path, make_job, make_outcome):
    url = f"sqlite:///{tmp_path}/other.db"
    store = open_store(
        app(tmp_path, database_url=url, synchronous="full", history_limit=1, busy_timeout_s=0.5)
    )
    for job_id in "ab":
        await store.add(make_job(job_id))
        await store.finish(make_job(job_id), make_outcome())
    assert [job_id for job_id, _ in await store.history()] == ["b"]
    connection = store._writer._connection
    assert connection is not None
    pragmas = [
        connection.exec_driver_sql(f"PRAGMA {name}").scalar()
        for name in ("journal_mode", "synchronous", "busy_timeout")
    ]
    connection.rollback()
    assert pragmas == ["wal", 2, 500]
    await store.close()
    assert (tmp_path / "other.db").is_file()
