"""Whatever a node does, its own job ends, and the next one runs."""

from __future__ import annotations

import asyncio
import sys

import pytest
from comfyk import hookimpl
from comfyk.graph.validation import PromptError
from comfyk.io import NodeDefinitionError
from comfyk.jobs.model import JobStatus


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


class Base:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}, "hidden": {"id": "UNIQUE_ID"}})
    RETURN_TYPES = ("*",)
    FUNCTION = "run"

    def run(self, id):
        return (1,)


class MuteError(Base):
    def run(self, id):
        raise Mute


class MakesMute(Base):
    def run(self, id):
        return (Mute(),)


class TakesAndFails(Base):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"x": ("*",)}})

    def run(self, x):
        raise ValueError("no")


class ExpandsToItself(Base):
    def run(self, id):
        return {"result": ([id, 0],), "expand": {id: {"class_type": "Base", "inputs": {}}}}


class ExpandsToOther(Base):
    def run(self, id):
        return {"result": (["show", 0],), "expand": {"show": {"class_type": "Base", "inputs": {}}}}


class ExpandsToNothing(Base):
    def run(self, id):
        return {"result": (["new", 0],), "expand": {"new": {"inputs": {}}}}


class DisplaysInACircle(Base):
    def run(self, id):
        nodes = {
            name: {"class_type": "Base", "inputs": {}, "override_display_id": other}
            for name, other in (("x", "y"), ("y", "x"))
        }
        return {"result": (["x", 0],), "expand": nodes}


class ExitsInFingerprint(Base):
    @classmethod
    def IS_CHANGED(cls, **inputs):
        raise SystemExit(3)


class ExitsInValidation(Base):
    @classmethod
    def VALIDATE_INPUTS(cls, **inputs):
        raise SystemExit(3)


class ExitsInSchema(Base):
    calls = 0

    @classmethod
    def INPUT_TYPES(cls):
        raise SystemExit(3)


class SlowFingerprint(Base):
    @classmethod
    async def IS_CHANGED(cls, **inputs):
        await asyncio.Event().wait()


class SlowLazy(Base):
    async def check_lazy_status(self, **inputs):
        await asyncio.Event().wait()


class StopsTheLoop(Base):
    def run(self, id):
        asyncio.get_running_loop().stop()
        return (1,)


class StopsTheLoopAndWaits(Base):
    async def run(self, id):
        asyncio.get_running_loop().stop()
        await asyncio.Event().wait()


class ExitsOnTheLoop(Base):
    async def run(self, id):
        asyncio.get_running_loop().call_soon(sys.exit, 0)
        await asyncio.Event().wait()


class InterruptsOnTheLoop(Base):
    async def run(self, id):
        async def interrupt():
            raise KeyboardInterrupt

        task = asyncio.ensure_future(interrupt())
        await asyncio.Event().wait()
        return (task,)


class StopsTheLoopForGood(Base):
    async def run(self, id):
        loop = asyncio.get_running_loop()

        def stop():
            loop.stop()
            loop.call_soon(stop)

        stop()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass


class CancelsItsTask(Base):
    def run(self, id):
        asyncio.current_task().cancel()
        return (1,)


class Undying(Base):
    async def run(self, id):
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass


@pytest.fixture
async def hostile(kernel, n):
    return await kernel(*n.CLASSES, *(cls for cls in globals().values() if _is_hostile(cls)), cache="classic")


def _is_hostile(cls):
    return isinstance(cls, type) and issubclass(cls, Base)


async def the_next_job_runs(k, n):
    prompt = {"1": n.node("Num", value=1), "2": n.node("Show", x=["1", 0])}
    assert (await asyncio.wait_for(k.run(prompt), 10)).outputs == {"2": {"text": [1]}}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("MuteError", "Mute"),
        ("ExpandsToItself", "taken"),
        ("ExpandsToOther", "taken"),
        ("ExpandsToNothing", "unknown class None"),
    ],
)
async def test_a_node_that_fails_in_an_odd_way(hostile, n, kind, message):
    prompt = {"1": n.node(kind), "show": n.node("Show", x=["1", 0])}
    outcome = await asyncio.wait_for(hostile.run(prompt), 10)
    assert outcome.status is JobStatus.FAILED
    assert outcome.error["node_id"] == "1"
    assert message in outcome.error["exception_message"]
    await the_next_job_runs(hostile, n)


async def test_an_input_without_a_text_is_shown_all_the_same(hostile, n):
    prompt = {
        "1": n.node("MakesMute"),
        "2": n.node("TakesAndFails", x=["1", 0]),
        "3": n.node("Show", x=["2", 0]),
    }
    outcome = await asyncio.wait_for(hostile.run(prompt), 10)
    assert "Mute" in outcome.error["current_inputs"]["x"][0]
    await the_next_job_runs(hostile, n)


@pytest.mark.parametrize("kind", ["DisplaysInACircle", "ExitsInFingerprint"])
async def test_a_node_that_is_odd_and_works(hostile, n, kind):
    prompt = {"1": n.node(kind), "show": n.node("Show", x=["1", 0])}
    assert (await asyncio.wait_for(hostile.run(prompt), 10)).outputs == {"show": {"text": [1]}}


@pytest.mark.parametrize("kind", ["ExitsInValidation", "ExitsInSchema"])
async def test_a_node_that_exits_while_it_is_looked_at(hostile, n, kind):
    with pytest.raises(PromptError) as error:
        await hostile.app.jobs.submit({"1": n.node(kind), "show": n.node("Show", x=["1", 0])})
    assert error.value.node_errors["1"]["errors"][0]["type"] == "exception_during_validation"
    document, _ = hostile.app.object_info.all()
    assert b"MuteError" in document and b"ExitsInSchema" not in document
    await the_next_job_runs(hostile, n)


@pytest.mark.parametrize("kind", ["SlowFingerprint", "SlowLazy"])
async def test_async_questions_to_a_node_can_be_interrupted(hostile, n, kind):
    prompt = {"1": n.node(kind), "show": n.node("Show", x=["1", 0])}
    running = asyncio.Event()
    hostile.app.events.subscribe(lambda event: running.set() if event.type == "execution_start" else None)
    waiting = asyncio.ensure_future(hostile.run(prompt))
    await asyncio.wait_for(running.wait(), 10)
    hostile.app.jobs.interrupt()
    assert (await asyncio.wait_for(waiting, 10)).status is JobStatus.CANCELLED
    await the_next_job_runs(hostile, n)


@pytest.mark.parametrize("name", [6, "", ("a",)])
def test_a_name_that_is_no_name_is_refused(name):
    from comfyk.nodes.registry import define

    with pytest.raises(NodeDefinitionError, match="no name for a node"):
        define(Base, name=name)


async def test_plugins_that_fail_to_make_a_part_are_recorded_and_the_kernels_is_taken(kernel, n):
    class Plugin:
        @hookimpl
        def comfyk_create_cache(self, app):
            raise RuntimeError("no cache")

        @hookimpl
        def comfyk_create_executor(self, app):
            raise RuntimeError("no executor")

    k = await kernel(*n.CLASSES, plugins=[Plugin()])
    await the_next_job_runs(k, n)
    (info,) = k.app.plugins.infos()
    assert {error.hook for error in info.errors} == {"comfyk_create_cache", "comfyk_create_executor"}


async def test_a_class_that_is_gone_when_the_job_runs_is_named_with_its_node(hostile, n):
    hostile.app.jobs.pause()
    job = (await hostile.app.jobs.submit({"1": n.node("Base"), "show": n.node("Show", x=["1", 0])})).job
    hostile.app.nodes.remove("Base")
    waiting = asyncio.ensure_future(hostile.app.jobs.wait(job.id))
    await asyncio.sleep(0)
    hostile.app.jobs.resume()
    outcome = await asyncio.wait_for(waiting, 10)
    assert (outcome.error["node_id"], outcome.error["node_type"]) == ("1", "Base")
    assert "not installed any more" in outcome.error["exception_message"]
    await the_next_job_runs(hostile, n)


@pytest.mark.parametrize(
    "kind",
    ["StopsTheLoop", "StopsTheLoopAndWaits", "ExitsOnTheLoop", "InterruptsOnTheLoop", "StopsTheLoopForGood"],
)
async def test_a_node_that_ends_the_loop_it_runs_on_fails_its_job(hostile, n, kind, monkeypatch):
    monkeypatch.setattr("comfyk.execution.node_loop._LAST_WORDS_S", 0.5)
    prompt = {"1": n.node(kind), "2": n.node("Num", value=3), "show": n.node("Show", x=["1", 0])}
    for _ in range(2):
        outcome = await asyncio.wait_for(hostile.run(dict(prompt)), 10)
        assert outcome.status is JobStatus.FAILED
        assert "event loop that nodes run on was ended" in outcome.error["exception_message"]
        if kind != "StopsTheLoopForGood":
            assert outcome.error["node_type"] in (kind, "Show")
        await the_next_job_runs(hostile, n)
    assert (
        await asyncio.wait_for(hostile.app.jobs.free(unload_models=True, free_memory=True), 10)
    ) is not None


async def test_a_node_that_cancels_its_own_task_fails_its_job(hostile, n):
    prompt = {"1": n.node("CancelsItsTask"), "show": n.node("Show", x=["1", 0])}
    outcome = await asyncio.wait_for(hostile.run(prompt), 10)
    assert outcome.status in (JobStatus.FAILED, JobStatus.COMPLETED)
    await the_next_job_runs(hostile, n)


async def test_what_a_job_leaves_behind_may_end_the_loop_between_jobs(hostile, n):
    class LeavesAnEnd(Base):
        def run(self, id):
            asyncio.get_running_loop().call_later(0.05, sys.exit, 0)
            return (1,)

    hostile.app.nodes.add(LeavesAnEnd)
    prompt = {"1": n.node("LeavesAnEnd"), "show": n.node("Show", x=["1", 0])}
    assert (await asyncio.wait_for(hostile.run(prompt), 10)).status is JobStatus.COMPLETED
    await asyncio.sleep(0.2)
    await the_next_job_runs(hostile, n)


async def test_an_async_call_that_does_not_let_itself_be_cancelled_is_left_behind(hostile, n, monkeypatch):
    monkeypatch.setattr("comfyk.execution.node.CANCEL_S", 0.1)
    monkeypatch.setattr("comfyk.execution.run.CANCEL_S", 0.1)
    running = asyncio.Event()
    hostile.app.events.subscribe(lambda event: running.set() if event.type == "executing" else None)
    prompt = {"1": n.node("Undying"), "show": n.node("Show", x=["1", 0])}
    waiting = asyncio.ensure_future(hostile.run(prompt))
    await asyncio.wait_for(running.wait(), 10)
    hostile.app.jobs.interrupt()
    assert (await asyncio.wait_for(waiting, 10)).status is JobStatus.CANCELLED
    await the_next_job_runs(hostile, n)
