"""What a running prompt does, seen from outside: outcomes, messages, and which nodes ran."""

from __future__ import annotations

import asyncio

import pytest
from comfyk.jobs.model import JobStatus


async def test_a_chain_runs_and_shows_its_result(k, n):
    prompt = {
        "1": n.node("Num", value=2),
        "2": n.node("Add", a=["1", 0], b=3),
        "3": n.node("Show", x=["2", 0]),
    }
    outcome = await k.run(prompt)
    assert outcome.status is JobStatus.COMPLETED
    assert outcome.outputs == {"3": {"text": [5]}}
    assert outcome.meta["3"] == {
        "node_id": "3",
        "display_node": "3",
        "parent_node": None,
        "real_node_id": "3",
    }


async def test_messages_come_in_the_documented_order(k, n):
    prompt = {"1": n.node("Num", value=2), "2": n.node("Show", x=["1", 0])}
    outcome = await k.run(prompt)
    told = [(kind, data.get("node")) for kind, data in k.messages() if kind != "progress_state"]
    assert told == [
        ("status", None),
        ("status", None),
        ("execution_start", None),
        ("execution_cached", None),
        ("executing", "1"),
        ("executing", "2"),
        ("executed", "2"),
        ("execution_success", None),
        ("status", None),
        ("executing", None),
    ]
    assert [kind for kind, _ in outcome.messages] == [
        "execution_start",
        "execution_cached",
        "execution_success",
    ]
    assert all(event.client_id == "test" for event in k.events if event.type != "status")
    assert [data["status"]["exec_info"]["queue_remaining"] for _, data in k.messages("status")] == [1, 1, 0]


async def test_a_job_is_in_the_history_before_its_end_is_told(k, n):
    found = []

    def look(event):
        if event.type == "execution_success":
            found.append(asyncio.ensure_future(k.app.jobs.store.history_entry(event.job_id)))

    k.app.events.subscribe(look)
    await k.run({"1": n.node("Num", value=2), "2": n.node("Show", x=["1", 0])})
    assert await found[0] is not None


async def test_the_last_progress_state_has_every_node(k, n):
    await k.run({"1": n.node("Steps", steps=5), "2": n.node("Show", x=["1", 0])})
    last = k.messages("progress_state")[-1][1]["nodes"]
    assert {node: (state["state"], state["value"], state["max"]) for node, state in last.items()} == {
        "1": ("finished", 5, 5),
        "2": ("finished", 1, 1),
    }
    assert [data["value"] for _, data in k.messages("progress")] == [1, 2, 3, 4, 5]


async def test_lists_are_mapped_and_shorter_ones_repeat_their_last_item(k, n):
    prompt = {
        "long": n.node("Range", n=4),
        "short": n.node("Range", n=2),
        "add": n.node("Add", a=["long", 0], b=["short", 0], c=100),
        "each": n.node("Show", x=["add", 0]),
        "sum": n.node("Sum", x=["add", 0]),
        "total": n.node("Show", x=["sum", 0]),
        "scalar": n.node("Show", x=["long", 1]),
    }
    outcome = await k.run(prompt)
    assert outcome.outputs["each"] == {"text": [100, 102, 103, 104]}
    assert outcome.outputs["total"] == {"text": [409]}
    assert outcome.outputs["scalar"] == {"text": ["4 numbers"]}


async def test_an_empty_list_is_no_work(k, n):
    prompt = {"none": n.node("Range", n=0), "add": n.node("Add", a=["none", 0]), "sum": n.node("Sum", x=["add", 0]),
              "show": n.node("Show", x=["sum", 0]), "nothing": n.node("Show", x=["add", 0])}  # fmt: skip
    outcome = await k.run(prompt)
    assert outcome.status is JobStatus.COMPLETED
    assert outcome.outputs == {"show": {"text": [0]}}


@pytest.mark.parametrize(("which", "wanted", "unwanted"), [(True, "1", "2"), (False, "2", "1")])
async def test_only_the_lazy_input_that_is_asked_for_runs(k, n, which, wanted, unwanted):
    prompt = {
        "1": n.node("Num", value=10),
        "2": n.node("Num", value=20),
        "3": n.node("Switch", which=which, on=["1", 0], off=["2", 0]),
        "4": n.node("Show", x=["3", 0]),
    }
    outcome = await k.run(prompt)
    assert outcome.outputs == {"4": {"text": [int(wanted) * 10]}}
    assert wanted in k.ran() and unwanted not in k.ran()
    # Again, and the other way round: what was left out runs now.
    prompt["3"]["inputs"]["which"] = not which
    assert (await k.run(prompt)).outputs == {"4": {"text": [int(unwanted) * 10]}}


async def test_a_silent_blocker_keeps_what_is_behind_it_from_running(k, n):
    prompt = {
        "1": n.node("Num", value=1),
        "2": n.node("Block", x=["1", 0], block=True),
        "3": n.node("Add", a=["2", 0]),
        "blocked": n.node("Show", x=["3", 0]),
        "other": n.node("Show", x=["2", 1]),
    }
    outcome = await k.run(prompt)
    assert outcome.status is JobStatus.COMPLETED
    assert outcome.outputs == {"other": {"text": [7]}}
    assert not k.messages("execution_error")


async def test_a_blocker_with_a_message_is_told_once_and_the_job_goes_on(k, n):
    prompt = {
        "1": n.node("Num", value=1),
        "2": n.node("BlockAll", x=["1", 0], block=True, message="not today"),
        "3": n.node("Add", a=["2", 0]),
        "blocked": n.node("Show", x=["3", 0]),
        "fine": n.node("Show", x=["1", 0]),
    }
    outcome = await k.run(prompt)
    assert outcome.status is JobStatus.COMPLETED
    (error,) = k.messages("execution_error")
    assert error[1]["node_id"] == "3"
    assert error[1]["exception_message"] == "Execution Blocked: not today"
    assert outcome.outputs == {"fine": {"text": [1]}}


async def test_a_blocker_in_a_list_blocks_its_own_item(k, n):
    prompt = {
        "range": n.node("Range", n=3),
        "block": n.node("Block", x=["range", 0], block=["flags", 0]),
        "flags": n.node("Range", n=2),  # 0, 1, 1: the first item passes
        "show": n.node("Show", x=["block", 0]),
    }
    k.app.nodes.get("Block").cls.VALIDATE_INPUTS = classmethod(lambda cls, input_types: True)
    try:
        outcome = await k.run(prompt)
    finally:
        del k.app.nodes.get("Block").cls.VALIDATE_INPUTS
    assert outcome.outputs == {"show": {"text": [0]}}


async def test_an_error_names_the_node_its_inputs_and_the_traceback(k, n):
    prompt = {"1": n.node("Num", value=1), "2": n.node("Fail", x=["1", 0]), "3": n.node("Show", x=["2", 0])}
    outcome = await k.run(prompt)
    assert outcome.status is JobStatus.FAILED
    (error,) = k.messages("execution_error")
    data = error[1]
    assert (data["node_id"], data["node_type"], data["exception_type"]) == ("2", "Fail", "ValueError")
    assert data["exception_message"] == "cannot work with 1"
    assert data["current_inputs"] == {"x": [1]}
    assert data["executed"] == ["1"]
    (frame,) = data["traceback"]  # the node's own frames, not the executor's
    assert "cannot work with" in frame
    assert outcome.error == data
    assert (
        await k.run({"1": n.node("Num", value=1), "2": n.node("Show", x=["1", 0])})
    ).status is JobStatus.COMPLETED


@pytest.mark.parametrize("kind", ["Exit", "AsyncFail"])
async def test_whatever_a_node_raises_ends_the_job_only(k, n, kind):
    outcome = await k.run({"1": n.node(kind, x=1), "2": n.node("Show", x=["1", 0])})
    assert outcome.status is JobStatus.FAILED
    assert outcome.error["node_id"] == "1"
    assert (
        await k.run({"1": n.node("Num", value=1), "2": n.node("Show", x=["1", 0])})
    ).status is JobStatus.COMPLETED


async def test_async_nodes_overlap(k, n):
    prompt = {
        "1": n.node("Meet", x=1),
        "2": n.node("Meet", x=2),
        "3": n.node("Add", a=["1", 0], b=["2", 0]),
        "4": n.node("Show", x=["3", 0]),
    }
    outcome = await asyncio.wait_for(k.run(prompt), 10)
    assert outcome.outputs == {"4": {"text": [3]}}


async def test_async_calls_of_one_node_overlap_over_a_list(k, n):
    prompt = {"0": n.node("Range", n=2), "1": n.node("Meet", x=["0", 0]), "2": n.node("Show", x=["1", 0])}
    assert (await asyncio.wait_for(k.run(prompt), 10)).outputs == {"2": {"text": [0, 1]}}


async def test_expansion_gives_the_results_of_its_subgraph(k, n):
    prompt = {
        "1": n.node("AddMany", x=1, n=5),
        "2": n.node("Show", x=["1", 0]),
        "3": n.node("Show", x=["1", 1]),
    }
    outcome = await k.run(prompt)
    assert outcome.outputs == {"2": {"text": [6]}, "3": {"text": [42]}}
    states = k.messages("progress_state")[-1][1]["nodes"]
    inner = {node: state for node, state in states.items() if state["parent_node_id"] == "1"}
    assert len(inner) == 6
    assert all(state["display_node_id"] == state["real_node_id"] == "1" for state in inner.values())


async def test_expansion_nests_and_its_output_nodes_run(k, n):
    prompt = {"1": n.node("Nested", x=1, n=3), "2": n.node("Show", x=["1", 0])}
    outcome = await k.run(prompt)
    shown = {node: data for node, data in outcome.outputs.items() if node != "2"}
    assert outcome.outputs["2"] == {"text": [4]}
    (inner,) = shown
    assert shown[inner] == {"text": [4]}
    assert outcome.meta[inner]["display_node"] == outcome.meta[inner]["parent_node"] == "1"


async def test_an_expansion_is_cached_as_a_whole_and_in_its_parts(k, n):
    prompt = {"1": n.node("AddMany", x=1, n=4), "2": n.node("Show", x=["1", 0])}
    await k.run(prompt)
    k.events.clear()
    await k.run(prompt)
    assert k.ran() == []
    k.events.clear()
    prompt["1"]["inputs"]["n"] = 6
    assert (await k.run(prompt)).outputs["2"] == {"text": [7]}
    # The first four additions are those of before.
    assert len([node for node in k.ran() if node not in ("1", "2")]) == 2


async def test_expansion_over_a_list_keeps_the_items_apart(k, n):
    prompt = {
        "0": n.node("Range", n=3),
        "1": n.node("AddMany", x=["0", 0], n=2),
        "2": n.node("Show", x=["1", 0]),
    }
    assert (await k.run(prompt)).outputs == {"2": {"text": [2, 3, 4]}}


@pytest.mark.parametrize(("kind", "message"), [("BadExpansion", "Nowhere"), ("CycleExpansion", "cycle")])
async def test_an_expansion_that_cannot_run_fails_the_job(k, n, kind, message):
    outcome = await k.run({"1": n.node(kind, x=1, n=1), "2": n.node("Show", x=["1", 0])})
    assert outcome.status is JobStatus.FAILED
    assert message in outcome.error["exception_message"]
    assert outcome.error["node_id"] == "1"


async def test_hidden_inputs(k, n):
    prompt = {"h": n.node("Hidden"), "s": n.node("Show", x=["h", 0])}
    outcome = await k.run(
        prompt,
        extra_data={"extra_pnginfo": {"workflow": {"id": "w"}}},
        sensitive={"auth_token_comfy_org": "secret"},
    )
    assert outcome.outputs["s"]["text"] == [["h", ["h", "s"], "Hidden", {"workflow": {"id": "w"}}, "secret"]]
    entry = await k.app.jobs.store.history()
    assert b"auth_token" not in entry[0][1]


async def test_a_raw_link_is_passed_as_it_is(k, n):
    prompt = {
        "1": n.node("Num", value=1),
        "2": n.node("RawLink", x=["1", 0]),
        "3": n.node("Show", x=["2", 0]),
    }
    assert (await k.run(prompt)).outputs == {"3": {"text": ["['1', 0]"]}}


async def test_wrapped_lists_are_constants(k, n):
    prompt = {"1": n.node("Show", x={"__value__": ["1", 0]})}
    assert (await k.run(prompt)).outputs == {"1": {"text": [["1", 0]]}}


async def test_partial_execution_runs_only_its_targets(k, n):
    prompt = {"1": n.node("Num", value=1), "2": n.node("Show", x=["1", 0]), "3": n.node("Show", x=["1", 0])}
    outcome = await k.run(prompt, targets=["3"])
    assert list(outcome.outputs) == ["3"]


async def test_a_job_without_a_client_runs_too(k, n):
    outcome = await k.run({"1": n.node("Show", x=1)}, extra_data={})
    assert outcome.status is JobStatus.COMPLETED
    assert all(event.client_id is None for event in k.events)


class TestInterruption:
    async def start(self, k, n, prompt, until):
        reached = asyncio.Event()
        k.app.events.subscribe(lambda event: reached.set() if until(event) else None)
        submission = await k.app.jobs.submit(prompt, extra_data={"client_id": "test"})
        await asyncio.wait_for(reached.wait(), 10)
        return submission.job.id

    async def test_while_a_node_runs(self, k, n):
        prompt = {"1": n.node("Endless", steps=1), "2": n.node("Show", x=["1", 0])}
        job = await self.start(k, n, prompt, lambda event: event.type == "progress")
        assert k.app.jobs.current_node("test") == (job, "1")
        waiting = asyncio.ensure_future(k.app.jobs.wait(job))
        await asyncio.sleep(0)
        assert not k.app.jobs.interrupt("another job")
        assert k.app.jobs.interrupt(job)
        outcome = await asyncio.wait_for(waiting, 10)
        assert outcome.status is JobStatus.CANCELLED
        (told,) = k.messages("execution_interrupted")
        assert (told[1]["node_id"], told[1]["node_type"]) == ("1", "Endless")
        assert k.app.jobs.current_node("test") is None

    async def test_while_async_nodes_wait(self, k, n):
        prompt = {"1": n.node("Forever", x=1), "2": n.node("Show", x=["1", 0])}
        job = await self.start(k, n, prompt, lambda event: event.type == "executing")
        waiting = asyncio.ensure_future(k.app.jobs.wait(job))
        await asyncio.sleep(0)
        k.app.jobs.interrupt()
        outcome = await asyncio.wait_for(waiting, 10)
        assert outcome.status is JobStatus.CANCELLED
        assert n.Forever.cancelled

    async def test_an_error_cancels_async_nodes_that_wait(self, k, n):
        prompt = {
            "1": n.node("Forever", x=1),
            "2": n.node("AsyncFail", x=1),
            "3": n.node("Add", a=["1", 0], b=["2", 0]),
            "4": n.node("Show", x=["3", 0]),
        }
        outcome = await asyncio.wait_for(k.run(prompt), 10)
        assert outcome.status is JobStatus.FAILED
        assert n.Forever.cancelled

    async def test_the_next_job_is_not_interrupted(self, k, n):
        job = await self.start(
            k,
            n,
            {"1": n.node("Forever", x=1), "2": n.node("Show", x=["1", 0])},
            lambda e: e.type == "executing",
        )
        next_job = asyncio.ensure_future(
            k.run({"1": n.node("Num", value=1), "2": n.node("Show", x=["1", 0])})
        )
        await asyncio.sleep(0.01)
        k.app.jobs.interrupt(job)
        assert (await asyncio.wait_for(next_job, 10)).status is JobStatus.COMPLETED


async def test_plugins_wrap_node_calls_and_give_contexts_and_advice(kernel, n):
    import contextlib

    from comfyk import hookimpl

    class Plugin:
        log: list

        @hookimpl(wrapper=True)
        def comfyk_node_call(self, app, node, inputs):
            self.log.append((node.name, dict(inputs)))
            result = yield
            if node.name == "Num":
                return (result[0] * 10,)
            return result

        @hookimpl
        def comfyk_job_context(self, app, job):
            @contextlib.contextmanager
            def context():
                self.log.append("enter")
                yield
                self.log.append("leave")

            return context()

        @hookimpl
        def comfyk_node_failed(self, app, node, error):
            return f"have you tried not to use {node.name}?"

    plugin = Plugin()
    plugin.log = []
    k = await kernel(*n.CLASSES, plugins=[plugin])
    outcome = await k.run({"1": n.node("Num", value=2), "2": n.node("Show", x=["1", 0])})
    assert outcome.outputs == {"2": {"text": [20]}}
    assert plugin.log == ["enter", ("Num", {"value": 2}), ("Show", {"x": 20}), "leave"]
    outcome = await k.run({"1": n.node("Fail", x=2), "2": n.node("Show", x=["1", 0])})
    assert outcome.error["exception_message"].endswith("have you tried not to use Fail?")


async def test_a_chain_of_10000_nodes_runs(k, n):
    prompt = {"0": n.node("Num", value=0)}
    for index in range(1, 10_000):
        prompt[str(index)] = n.node("Add", a=[str(index - 1), 0], b=1)
    prompt["show"] = n.node("Show", x=["9999", 0])
    outcome = await k.run(prompt)
    assert outcome.outputs == {"show": {"text": [9999]}}
