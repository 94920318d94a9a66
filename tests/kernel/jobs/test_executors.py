"""What executors may do, and what they may do wrong: the queue goes on, and no job is lost or stuck."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from comfyk import App, Plugins, hookimpl
from comfyk.events import Event, Executed, Executing, ExecutionSuccess, JobEnded, now_ms
from comfyk.graph import PromptError
from comfyk.jobs import DuplicateJobError, ExecutorDied, Job, JobStatus, Outcome
from comfyk.settings import load_settings


class Say:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"text": ("STRING", {})}}

    def run(self, text: str) -> dict[str, Any]:
        return {"ui": {"text": [text]}}


def prompt(text: str) -> dict[str, Any]:
    return {"1": {"class_type": "Say", "inputs": {"text": text}}}


class Script:
    """An executor that does what each job's text says: `hold`, `die`, `raise`, `none`, `unprepared`, `late` ..."""

    def __init__(self) -> None:
        self.capacity = 2
        self.held: dict[str, asyncio.Future[None]] = {}
        self.ran: list[str] = []
        self.changed: Callable[[], None] = lambda: None

    async def start(self, capacity_changed: Callable[[], None]) -> None:
        self.changed = capacity_changed

    async def stop(self) -> None: ...

    def prepare(self, job: Job) -> Any:
        match self.text(job):
            case "unprepared":
                raise LookupError("not prepared")
            case "late":
                return self.fail()
            case "prepared badly":
                return 5
            case "exits early":
                raise SystemExit(3)
            case "exits late":
                return self.exit()
        return None

    async def fail(self) -> None:
        raise LookupError("what it waited for failed")

    async def exit(self) -> None:
        raise SystemExit(4)

    def text(self, job: Job) -> str:
        return job.prompt["1"]["inputs"]["text"]

    async def run(self, job: Job, tell: Callable[[Any], None]) -> Any:
        text = self.text(job)
        self.ran.append(text)
        tell(Executing(job_id=job.id, node="1", display_node="1"))
        if text == "hold":
            future = self.held[job.id] = asyncio.get_running_loop().create_future()
            await future
            self.held.pop(job.id, None)
            return Outcome(JobStatus.CANCELLED, now_ms(), now_ms())
        if text == "die":
            raise ExecutorDied("The machine is gone.")
        if text == "raise":
            raise LookupError("a fault")
        if text == "cancelled":  # as who awaits something of its own that is cancelled
            raise asyncio.CancelledError
        if text == "exits":
            raise SystemExit(3)
        if text == "interrupted":
            raise KeyboardInterrupt
        if text == "none":
            return None
        if text == "unended":
            return Outcome(JobStatus.PENDING, now_ms(), now_ms())
        if text == "other's":
            tell(Executing(job_id="another", node="1", display_node="1"))
        if text == "told early":
            tell(ExecutionSuccess(job_id=job.id))
        if text == "told over":
            tell(Executing(job_id=job.id, node=None))
        if text == "told late":
            asyncio.get_running_loop().call_soon(self.tell_late, tell, job.id)
        output = {"text": [text]}
        tell(Executed(job_id=job.id, node="1", display_node="1", output=output))
        return Outcome(JobStatus.COMPLETED, now_ms(), now_ms(), outputs={"1": dict(output)})

    def tell_late(self, tell: Callable[[Any], None], job_id: str) -> None:
        tell(Executing(job_id=job_id, node="late", display_node="late"))

    def interrupt(self, job_id: str) -> None:
        if job_id not in self.held:
            raise LookupError("cannot interrupt")
        if not self.held[job_id].done():
            self.held[job_id].set_result(None)

    async def free(self, *, unload_models: bool, free_memory: bool) -> dict[str, Any]:
        raise LookupError("cannot free")


@pytest.fixture
async def scripted(tmp_path: Path):
    script = Script()

    class Plugin:
        @hookimpl
        def comfyk_create_executor(self) -> Any:
            return script

        @hookimpl
        def comfyk_node_output(self, output: dict[str, Any]) -> None:
            output["seen"] = [True]

    plugins = Plugins()
    plugins.register(Plugin(), "script")
    async with App(load_settings(plugins, overrides={"folders.base": tmp_path}), plugins) as app:
        app.nodes.add(Say)
        yield script, app


async def submitted(app: App, text: str) -> str:
    return (await app.jobs.submit(prompt(text))).job.id


async def ended(app: App, job_id: str) -> Outcome:
    return await asyncio.wait_for(app.jobs.wait(job_id), 10)


async def held(script: Script, count: int) -> None:
    async with asyncio.timeout(10):
        while len(script.held) < count:
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("raise", "LookupError", "a fault"),
        ("none", "TypeError", "no Outcome with a JobStatus"),
        ("unended", "ValueError", "which is no end"),
        ("unprepared", "LookupError", "not prepared"),
        ("late", "LookupError", "what it waited for failed"),
        ("prepared badly", "TypeError", "an awaitable is required"),
        ("exits early", "SystemExit", "3"),
        ("exits late", "RuntimeError", "it called sys.exit(4)"),
        ("cancelled", "CancelledError", "The executor failed"),
        ("exits", "SystemExit", "3"),
        ("other's", "ValueError", "of another, 'another'"),
        ("told early", "ValueError", "reported ExecutionSuccess"),
        ("told over", "ValueError", "reported Executing"),
        ("interrupted", "KeyboardInterrupt", "The executor failed"),
        ("die", "JobCrashed", "died 2 times, so it is not run again. The last time: The machine is gone."),
    ],
)
async def test_a_fault_of_the_executor_fails_the_job_and_the_queue_goes_on(
    scripted, text, kind, said
) -> None:
    _, app = scripted
    told: list[str] = []
    app.events.subscribe(lambda event: told.append(event.type))
    first = asyncio.create_task(ended_after(app, text))
    outcome = await asyncio.wait_for(first, 10)
    assert outcome.status is JobStatus.FAILED and outcome.error is not None
    assert outcome.error["exception_type"] == kind and said in outcome.error["exception_message"]
    assert told.count("execution_error") == 1
    good = await asyncio.wait_for(ended_after(app, "good"), 10)
    assert good.status is JobStatus.COMPLETED and app.jobs.remaining == 0
    assert good.messages[-1][0] == "execution_success", "the queue adds what the executor left out"
    assert good.outputs == {"1": {"text": ["good"], "seen": [True]}}


async def test_what_is_reported_after_the_end_is_dropped(scripted) -> None:
    _, app = scripted
    told: list[Event] = []
    app.events.subscribe(told.append, Executing)
    assert (await ended_after(app, "told late")).status is JobStatus.COMPLETED
    assert (await ended_after(app, "good")).status is JobStatus.COMPLETED
    assert [event.node for event in told if isinstance(event, Executing)] == ["1", None, "1", None]


async def test_a_capacity_that_is_none_lets_jobs_wait_until_it_is_one(scripted, caplog) -> None:
    script, app = scripted
    script.capacity = None
    job_id = await submitted(app, "good")
    script.changed()
    while "the queue failed to start jobs" not in caplog.text:
        await asyncio.sleep(0.01)
    assert app.jobs.remaining == 1
    end = asyncio.create_task(app.jobs.wait(job_id))
    script.capacity = 1
    script.changed()
    assert (await asyncio.wait_for(end, 10)).status is JobStatus.COMPLETED


async def test_what_a_plugin_does_to_an_outcome_changes_nothing(tmp_path: Path) -> None:
    class Meddles:
        @hookimpl
        def comfyk_job_finished(self, outcome: Outcome) -> None:
            outcome.status = JobStatus.PENDING
            outcome.finished_at = "x"  # type: ignore[assignment]
            outcome.outputs.clear()
            outcome.messages.append("x")  # type: ignore[arg-type]

    plugins = Plugins()
    plugins.register(Meddles(), "meddles")
    async with App(load_settings(plugins, overrides={"folders.base": tmp_path}), plugins) as app:
        app.nodes.add(Say)
        outcome = await ended_after(app, "kept")
        assert (outcome.status, outcome.outputs) == (JobStatus.COMPLETED, {"1": {"text": ["kept"]}})
        detail = await app.jobs.store.get((await app.jobs.store.history())[0][0])
        assert detail is not None and detail.summary.status is JobStatus.COMPLETED


@pytest.mark.parametrize("fault", ["hangs", "raises"])
async def test_an_executor_that_does_not_stop_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog, fault: str
) -> None:
    monkeypatch.setattr("comfyk.app._EXECUTOR_STOPS_S", 0.1)

    class Stubborn(Script):
        @hookimpl
        def comfyk_create_executor(self) -> Any:
            return self

        async def stop(self) -> None:
            if fault == "raises":
                raise LookupError("no stop")
            await asyncio.Event().wait()

    plugins = Plugins()
    plugins.register(Stubborn(), "stubborn")
    async with asyncio.timeout(10):
        async with App(load_settings(plugins, overrides={"folders.base": tmp_path}), plugins):
            pass
    assert ("left behind" if fault == "hangs" else "failed to stop") in caplog.text


async def ended_after(app: App, text: str) -> Outcome:
    """How a job ends that is submitted now; it may end before anybody can wait for it."""
    outcomes: dict[str, Outcome] = {}
    job_id = (await app.jobs.submit(prompt(text))).job.id
    try:
        outcomes[job_id] = await app.jobs.wait(job_id)
    except KeyError:
        detail = await app.jobs.store.get(job_id)
        assert detail is not None and detail.outcome is not None
        outcomes[job_id] = detail.outcome
    return outcomes[job_id]


async def test_capacity_changes_while_jobs_run(scripted) -> None:
    script, app = scripted
    ids = [await submitted(app, "hold") for _ in range(5)]
    await held(script, 2)
    assert [job.id for job in app.jobs.running] == ids[:2]
    script.capacity = 4
    script.changed()
    await held(script, 4)
    script.capacity = 0
    script.changed()
    ends = [asyncio.create_task(ended(app, job_id)) for job_id in ids[:4]]
    await asyncio.sleep(0)
    assert app.jobs.interrupt()
    assert {outcome.status for outcome in await asyncio.gather(*ends)} == {JobStatus.CANCELLED}
    assert [job.id for job in (await app.jobs.listing())[1]] == ids[4:] and len(script.ran) == 4
    script.capacity = 1
    script.changed()
    await held(script, 1)
    last = asyncio.create_task(ended(app, ids[4]))
    await asyncio.sleep(0)
    app.jobs.interrupt(ids[4])
    assert (await last).status is JobStatus.CANCELLED and app.jobs.remaining == 0


async def test_what_cannot_be_freed_or_interrupted_is_said_and_nothing_hangs(scripted) -> None:
    script, app = scripted
    with pytest.raises(LookupError, match="cannot free"):
        await app.jobs.free(unload_models=True, free_memory=True)
    job_id = await submitted(app, "hold")
    await held(script, 1)
    kept = script.held
    script.held = {}
    assert app.jobs.interrupt(job_id), "it was asked to; that it goes on is logged"
    script.held = kept
    end = asyncio.create_task(ended(app, job_id))
    await asyncio.sleep(0)
    app.jobs.interrupt(job_id)
    assert (await end).status is JobStatus.CANCELLED
    assert (await ended_after(app, "good")).status is JobStatus.COMPLETED


async def test_an_id_that_runs_is_taken_and_the_one_that_has_it_stays(scripted) -> None:
    script, app = scripted
    job_id = (await app.jobs.submit(prompt("hold"))).job.id
    await held(script, 1)
    with pytest.raises(DuplicateJobError):
        await app.jobs.submit(prompt("good"), job_id=job_id)
    assert [job.id for job in app.jobs.running] == [job_id]
    end = asyncio.create_task(ended(app, job_id))
    await asyncio.sleep(0)
    app.jobs.interrupt(job_id)
    assert (await end).status is JobStatus.CANCELLED


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), 1e300])
async def test_a_place_that_is_none_is_refused(scripted, number: float) -> None:
    _, app = scripted
    with pytest.raises(PromptError, match="No such place in the queue"):
        await app.jobs.submit(prompt("good"), number=number)
    assert (await ended_after(app, "good")).status is JobStatus.COMPLETED


async def test_a_job_that_a_plugin_submits_at_startup_runs_once(tmp_path: Path) -> None:
    class Eager:
        ids: ClassVar[list[str]] = []

        @hookimpl
        async def comfyk_startup(self, app: App) -> None:
            app.nodes.add(Say)
            self.ids.append((await app.jobs.submit(prompt("early"))).job.id)

    plugins = Plugins()
    plugins.register(Eager(), "eager")
    app = App(load_settings(plugins, overrides={"folders.base": tmp_path}), plugins)
    told: list[str] = []
    app.events.subscribe(lambda event: told.append(event.type))
    over = asyncio.Event()
    app.events.subscribe(lambda event: over.set(), JobEnded)
    async with asyncio.timeout(10), app:  # the start does not wait for itself
        await over.wait()
        assert app.jobs.remaining == 0
    assert told.count("execution_start") == told.count("execution_success") == 1


async def test_what_a_plugin_adds_to_an_output_is_not_added_to_what_is_cached(tmp_path: Path) -> None:
    class Adds:
        @hookimpl
        def comfyk_node_output(self, output: dict[str, Any]) -> None:
            output["text"].append("more")

    plugins = Plugins()
    plugins.register(Adds(), "adds")
    async with App(load_settings(plugins, overrides={"folders.base": tmp_path}), plugins) as app:
        app.nodes.add(Say)
        for _ in range(3):
            assert (await ended_after(app, "same")).outputs == {"1": {"text": ["same", "more"]}}


async def test_an_async_node_that_exits_ends_its_job_alone(tmp_path: Path) -> None:
    class Exits(Say):
        async def run(self, text: str) -> dict[str, Any]:
            await asyncio.sleep(0)
            sys.exit(3)

    plugins = Plugins()
    async with App(load_settings(plugins, overrides={"folders.base": tmp_path}), plugins) as app:
        app.nodes.add(Say)
        app.nodes.add(Exits, name="Exits")
        job = (await app.jobs.submit({"1": {"class_type": "Exits", "inputs": {"text": "x"}}})).job
        outcome = await ended(app, job.id)
        assert outcome.error is not None and "sys.exit(3)" in outcome.error["exception_message"]
        assert (await ended_after(app, "still here")).status is JobStatus.COMPLETED
