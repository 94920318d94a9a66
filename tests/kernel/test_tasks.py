"""Background work: how it ends, who is told, and what is left of it after a crash."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import comfyk.tasks
import pytest
from comfyk import hookimpl
from comfyk.app import App
from comfyk.event_bus import EventBus
from comfyk.events import Event
from comfyk.plugins import Plugins
from comfyk.settings import load_settings
from comfyk.tasks import SERVER_STOPPED, Task, TaskChanged, Tasks
from comfyk.wire import dumps


@asynccontextmanager
async def running(folder: Path, keep: int = 200) -> AsyncIterator[tuple[Tasks, list[TaskChanged]]]:
    """Tasks without an app, and what is told of them."""
    events: list[Any] = []
    bus = EventBus()
    bus.attach(asyncio.get_running_loop())
    bus.subscribe(events.append, TaskChanged)
    tasks = Tasks(folder, bus, keep=keep)
    await tasks.open()
    try:
        yield tasks, events
    finally:
        await tasks.stop()


async def nothing(task: Task) -> None:
    pass


async def for_ever(task: Task) -> None:
    await asyncio.Event().wait()


def on_disk(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}


async def test_work_that_ends_well_is_told_and_kept(tmp_path: Path) -> None:
    async def work(task: Task) -> dict[str, int]:
        task.report(1, 2, "half of it")
        return {"files": 2}

    async with running(tmp_path) as (tasks, events):
        task = tasks.start(
            "fetch", work, title="Two files", key="k", user="ann", client_id="c", payload={"urls": ["a", "b"]}
        )
        assert task.status == "created" and tasks.get(task.id) is task and str(uuid.UUID(task.id)) == task.id
        assert await task.wait() is task
        await asyncio.sleep(0.01)
    assert (task.status, task.result, task.error) == ("completed", {"files": 2}, "")
    assert (task.value, task.total, task.message) == (1, 2, "half of it")
    assert task.started_at is not None and task.ended_at is not None
    assert task.created_at <= task.started_at <= task.ended_at == task.updated_at
    assert on_disk(tmp_path) == {task.id: task.record()} and task.payload == {"urls": ["a", "b"]}
    assert [event.task["status"] for event in events] == ["running", "completed"]
    assert {event.client_id for event in events} == {"c"} and {event.user for event in events} == {"ann"}
    assert events[-1].type == "task" and events[-1].data()["result"] == {"files": 2}
    assert "payload" not in events[-1].data()


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (ValueError("no such file"), "ValueError: no such file"),
        (KeyError(), "KeyError"),
        (SystemExit(3), "RuntimeError: it called sys.exit(3)"),
    ],
)
async def test_a_failure_is_recorded_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, raised: BaseException, error: str
) -> None:
    async def work(task: Task) -> None:
        raise raised

    async with running(tmp_path) as (tasks, _):
        task = await tasks.start("fetch", work, title="One file").wait()
        assert (task.status, task.error) == ("failed", error)
        assert "the task fetch (One file) failed" in caplog.text and "in work" in caplog.text


@pytest.mark.parametrize("result", [object(), float("nan"), {1, 2}])
async def test_a_result_that_is_not_json_is_a_failure(tmp_path: Path, result: object) -> None:
    async def work(task: Task) -> object:
        return result

    async with running(tmp_path) as (tasks, _):
        task = await tasks.start("odd", work).wait()
        assert task.status == "failed" and "JSON" in task.error and task.result is None


async def test_work_that_is_no_async_function_is_a_failure(tmp_path: Path) -> None:
    async with running(tmp_path) as (tasks, _):
        task = await tasks.start("odd", lambda task: 3).wait()  # type: ignore[arg-type, return-value]
        assert task.status == "failed" and "TypeError" in task.error


async def test_the_payload_is_checked_before_anything_begins(tmp_path: Path) -> None:
    async with running(tmp_path) as (tasks, _):
        with pytest.raises(TypeError):
            tasks.start("odd", nothing, payload={"x": object()})
        assert tasks.list() == ([], 0)


async def test_the_same_key_is_the_same_task_until_it_has_ended(tmp_path: Path) -> None:
    async with running(tmp_path) as (tasks, _):
        first = tasks.start("fetch", for_ever, key="x")
        assert tasks.start("fetch", nothing, key="x") is first
        others = [
            tasks.start("install", for_ever, key="x"),
            tasks.start("fetch", for_ever, key="x", user="ann"),
            tasks.start("fetch", for_ever, key="y"),
            tasks.start("fetch", for_ever),
        ]
        assert len({id(task) for task in [first, *others]}) == 5
        tasks.cancel(first.id)
        await first.wait()
        assert tasks.start("fetch", for_ever, key="x") is not first


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_task_can_be_cancelled(tmp_path: Path, at_once: bool) -> None:
    cleaned = []

    async def work(task: Task) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(task.name)

    async with running(tmp_path) as (tasks, events):
        task = tasks.start("slow", work)
        if not at_once:
            while task._works is None:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert tasks.cancel(task.id)
        await asyncio.wait_for(task.wait(), 5)
        assert (task.status, task.error) == ("cancelled", "") and cleaned == ([] if at_once else ["slow"])
        assert not tasks.cancel(task.id)
        with pytest.raises(KeyError):
            tasks.cancel("nobody")
        await asyncio.sleep(0.01)
        assert (
            events[-1].task["status"] == "cancelled" and on_disk(tmp_path)[task.id]["status"] == "cancelled"
        )


async def test_work_may_finish_although_it_was_cancelled(tmp_path: Path) -> None:
    async def work(task: Task) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "done anyway"
        return ""

    async with running(tmp_path) as (tasks, _):
        task = tasks.start("stubborn", work)
        await asyncio.sleep(0.05)
        tasks.cancel(task.id)
        await task.wait()
        assert (task.status, task.result) == ("completed", "done anyway")


async def test_who_waits_may_give_up_and_the_task_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as (tasks, _):
        task = tasks.start("slow", for_ever)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task.wait(), 0.01)
        assert not task.status.is_end


async def test_progress_from_any_thread_is_told_ten_times_a_second_and_to_the_last(tmp_path: Path) -> None:
    def count(task: Task) -> None:
        for number in range(350):
            task.report(number, 350)
            time.sleep(0.001)

    async def work(task: Task) -> None:
        await asyncio.to_thread(count, task)
        await asyncio.sleep(0.15)  # what was reported last is told although nothing follows
        values.extend(event.task["value"] for event in events)

    values: list[float] = []
    async with running(tmp_path) as (tasks, events):
        began = time.monotonic()
        task = await tasks.start("count", work).wait()
        took = time.monotonic() - began
        assert task.status == "completed"
    assert values[-1] == 349 and values == sorted(values)
    assert 3 <= len(values) <= took / 0.1 + 2


async def test_tasks_are_listed_a_page_at_a_time(tmp_path: Path) -> None:
    async with running(tmp_path) as (tasks, _):
        made = []
        for number in range(6):
            made.append(
                tasks.start(
                    "odd" if number % 2 else "even", for_ever, key=str(number), user="ann" if number else "bo"
                )
            )
            await asyncio.sleep(0.002)
        assert tasks.list() == (made[::-1], 6)
        assert tasks.list(newest_first=False, offset=1, limit=2) == (made[1:3], 6)
        assert tasks.list(name="odd", limit=1) == ([made[5]], 3)
        assert tasks.list(key="3") == ([made[3]], 1) and tasks.list(user="bo") == ([made[0]], 1)
        between = tasks.list(created_after=made[1].created_at, created_before=made[4].created_at)
        assert between == ([made[3], made[2]], 2)
        tasks.cancel(made[0].id)
        await made[0].wait()
        assert tasks.list(status=["cancelled", "failed"]) == ([made[0]], 1)
        assert tasks.list(offset=10) == ([], 6)


async def test_what_has_ended_is_found_again_and_the_oldest_are_dropped(tmp_path: Path) -> None:
    async with running(tmp_path, keep=3) as (tasks, _):
        ended = [await tasks.start("one", nothing).wait() for _ in range(5)]
        assert [task.id for task in tasks.list(newest_first=False)[0]] == [task.id for task in ended[2:]]
        assert on_disk(tmp_path).keys() == {task.id for task in ended[2:]}
    async with running(tmp_path, keep=2) as (tasks, _):
        again, count = tasks.list()
        assert count == 2 and [task.id for task in again] == [ended[4].id, ended[3].id]
        assert again[0].record() == ended[4].record() and on_disk(tmp_path).keys() == {
            ended[3].id,
            ended[4].id,
        }
        assert await again[0].wait() is again[0] and not tasks.cancel(again[0].id)


async def test_files_that_are_no_records_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as (tasks, _):
        good = await tasks.start("good", nothing).wait()
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("[]")
    (tmp_path / "c.json").write_text(json.dumps({**good.record(), "id": "c", "status": "odd"}))
    (tmp_path / "d.json").write_text(json.dumps({**good.record(), "id": "d", "created_at": "today"}))
    (tmp_path / "e.json").write_text(json.dumps({**good.record(), "id": "e", "of a later version": 1}))
    async with running(tmp_path) as (tasks, _):
        assert {task.id for task in tasks.list()[0]} == {good.id, "e"}
    for name in "abcd":
        assert f"{name}.json is no record of a task" in caplog.text


async def test_a_folder_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    async with running(tmp_path / "file" / "tasks") as (tasks, _):
        assert (await tasks.start("one", nothing).wait()).status == "completed"
    assert "cannot be recorded" in caplog.text


async def test_tasks_start_in_the_loop_of_a_running_app_only(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="event loop of a running app"):
        Tasks(tmp_path, EventBus()).start("early", nothing)
    async with running(tmp_path) as (tasks, _):
        with pytest.raises(RuntimeError, match="event loop"):
            await asyncio.to_thread(tasks.start, "elsewhere", nothing)
    with pytest.raises(RuntimeError, match="the server stops"):
        tasks.start("late", nothing)


async def test_an_app_that_stops_ends_its_tasks_before_the_plugins(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Fetcher:
        @hookimpl
        def comfyk_startup(self, app: App) -> None:
            seen.append(app.tasks.start("from startup", for_ever))

        @hookimpl
        def comfyk_event(self, event: Event) -> None:
            if isinstance(event, TaskChanged):
                seen.append(event.task["status"])

        @hookimpl
        def comfyk_shutdown(self, app: App) -> None:
            seen.append([(task.status.value, task.error) for task in app.tasks.list()[0]])

    plugins = Plugins()
    plugins.register(Fetcher(), "fetcher")
    app = App(load_settings(plugins, overrides={"folders.base": tmp_path}), plugins)
    async with app:
        app.tasks.start("not begun", nothing)
    started, *_, ended = [one for one in seen if not isinstance(one, str)]
    assert ended == [("failed", SERVER_STOPPED), ("failed", SERVER_STOPPED)]
    assert seen[0] is started and "failed" in seen
    saved = on_disk(tmp_path / "user" / "comfyk" / "tasks")
    assert saved[started.id]["error"] == SERVER_STOPPED


async def test_the_server_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(comfyk.tasks, "_STOP_TIMEOUT_S", 0.1)
    release = asyncio.Event()

    async def work(task: Task) -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                pass
        return "too late"

    async with running(tmp_path) as (tasks, _):
        task = tasks.start("stubborn", work)
        await asyncio.sleep(0.05)
    assert (task.status, task.error) == ("failed", SERVER_STOPPED) and "does not end" in caplog.text
    release.set()
    await asyncio.sleep(0.01)
    assert (task.status, task.result) == ("failed", None) and on_disk(tmp_path)[task.id]["status"] == "failed"


CRASHES = """
import asyncio, sys
from pathlib import Path
from comfyk.event_bus import EventBus
from comfyk.tasks import Tasks

async def work(task):
    print(task.id, flush=True)
    await asyncio.sleep(60)

async def main():
    tasks = Tasks(Path(sys.argv[1]), EventBus())
    await tasks.open()
    await tasks.start("download", work, title="big", key="k", payload={"url": "u"}).wait()

asyncio.run(main())
"""


async def test_after_a_crash_what_was_under_way_has_failed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CRASHES, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    task_id = process.stdout.readline().strip()
    process.kill()
    process.communicate()
    assert on_disk(tmp_path)[task_id]["status"] == "running"
    async with running(tmp_path) as (tasks, _):
        task = tasks.get(task_id)
        assert task is not None and (task.status, task.error) == ("failed", SERVER_STOPPED)
        assert task.ended_at is not None and (task.title, task.payload) == ("big", {"url": "u"})
        assert tasks.start("download", nothing, key="k") is not task
    assert on_disk(tmp_path)[task_id]["status"] == "failed"


async def test_names_that_are_no_texts_are_refused_and_what_is_not_unicode_is_shown(tmp_path: Path) -> None:
    async with running(tmp_path) as (tasks, _):
        for given in ({"title": tmp_path}, {"key": tmp_path}, {"user": 5}):
            with pytest.raises(TypeError, match="give a text"):
                tasks.start("n", nothing, **given)  # type: ignore[arg-type]

        async def file(task: Task) -> Any:
            return {"file": "a\ud800"}

        task = await tasks.start("n", file, title="a\ud800", payload={"file": "b\ud800"}).wait()
        record = task.record()
        assert (record["status"], record["title"]) == ("completed", "a?")
        json.dumps(record).encode()
        assert dumps(record)
    async with running(tmp_path) as (tasks, _):
        assert dumps([task.record() for task in [tasks.get(task.id)] if task])
