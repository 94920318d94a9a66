"""What is found out, and put right, when a prompt is submitted and nothing has run yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from comfyk import io
from comfyk.app import App
from comfyk.graph import PromptError
from comfyk.jobs.model import JobStatus, Outcome
from comfyk_core_nodes.nodes import NODES

Graph = dict[str, Any]


def node(name: str, **inputs: Any) -> Graph:
    return {"class_type": name, "inputs": inputs}


def save(name: str = "SaveImage", **inputs: Any) -> Graph:
    picture = node("EmptyImage", width=8, height=8, batch_size=1, color=1)
    return {"1": picture, "2": node(name, images=["1", 0], **inputs)}


@pytest.fixture
def submit(app: App) -> Callable[..., tuple[Graph, Outcome]]:
    """Run a prompt: the prompt as it was queued, and what came of it."""

    async def run(graph: Graph, extra_data: Graph) -> tuple[Graph, Outcome]:
        async with app:
            job = (await app.jobs.submit(graph, extra_data=extra_data)).job
            return job.prompt, await app.jobs.wait(job.id)

    return lambda graph, **extra_data: asyncio.run(run(graph, extra_data))


def refused(submit: Callable[..., Any], graph: Graph, **extra_data: Any) -> PromptError:
    with pytest.raises(PromptError) as caught:
        submit(graph, **extra_data)
    return caught.value


def test_what_an_old_prompt_lacks_is_the_default(submit: Callable[..., Any]) -> None:
    graph = save()
    del graph["1"]["inputs"]["color"], graph["1"]["inputs"]["batch_size"]
    prompt, outcome = submit(graph)
    assert outcome.status is JobStatus.COMPLETED
    assert prompt["1"]["inputs"] == {"width": 8, "height": 8, "batch_size": 1, "color": 0}
    assert prompt["2"]["inputs"] == {"images": ["1", 0], "filename_prefix": "ComfyUI"}


@pytest.mark.parametrize("kind", NODES, ids=lambda kind: kind.GET_SCHEMA().node_id)
def test_every_node_has_its_defaults(app: App, kind: type[io.ComfyNode]) -> None:
    graph = {"1": node(kind.GET_SCHEMA().node_id or "")}
    asyncio.run(app.hook.comfyk_validate_prompt(prompt=graph, user="", client_id=None, extra_data={}))
    wanted = {
        each.id: each.as_dict()["default"]
        for each in kind.GET_SCHEMA().inputs
        if not each.optional and each.as_dict().get("default") is not None
    }
    assert {name: graph["1"]["inputs"].get(name) for name in wanted} == wanted


def test_inputs_of_a_choice_have_defaults_too(submit: Callable[..., Any]) -> None:
    prompt, outcome = submit(save("SaveImageAdvanced", format="png"))
    assert outcome.status is JobStatus.COMPLETED
    assert prompt["2"]["inputs"]["format.bit_depth"] == "8-bit"


def test_what_has_no_default_is_missed(submit: Callable[..., Any]) -> None:
    graph = save()
    graph["3"] = node("ImageScale", image=["1", 0], width=8, height=8, crop="disabled")
    graph["4"] = node("PreviewImage", images=["3", 0])
    del graph["2"]["inputs"]["images"]
    error = refused(submit, {**graph, "2": graph["2"]})
    details = {
        key: [e["extra_info"]["input_name"] for e in entry["errors"]]
        for key, entry in error.node_errors.items()
    }
    assert details == {"2": ["images"], "3": ["upscale_method"]}


def test_a_value_that_is_given_stays(submit: Callable[..., Any]) -> None:
    graph = save(filename_prefix="mine")
    assert submit(graph)[0]["2"]["inputs"]["filename_prefix"] == "mine"


@pytest.mark.parametrize("workflow", [[1, 2], "text", 3, [["workflow", {}]]])
@pytest.mark.parametrize("name", ["SaveImage", "PreviewImage", "SaveAnimatedWEBP"])
def test_a_workflow_that_is_no_object(submit: Callable[..., Any], workflow: Any, name: str) -> None:
    inputs = {"method": "default"} if name == "SaveAnimatedWEBP" else {}
    error = refused(submit, save(name, **inputs), extra_pnginfo=workflow)
    assert "extra_pnginfo" in error.error["message"]


@pytest.mark.parametrize("workflow", [None, {}, {"workflow": {"nodes": []}}])
def test_a_workflow_that_is_one(submit: Callable[..., Any], workflow: Any) -> None:
    assert submit(save(), extra_pnginfo=workflow)[1].status is JobStatus.COMPLETED


def test_a_workflow_that_nobody_takes(submit: Callable[..., Any]) -> None:
    graph = {"1": node("PreviewAny", source="text")}
    assert submit(graph, extra_pnginfo=[1])[1].status is JobStatus.COMPLETED


@pytest.mark.parametrize(
    "prefix", ["../out", "/abs", "a/../../b", "C:\\x", "a\0b", "x" * 300 + "/y", "%date:yyyy%/../../x"]
)
@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("SaveImage", {}),
        ("SaveAnimatedWEBP", {"method": "default"}),
        ("SaveAnimatedPNG", {}),
        ("SaveImageAdvanced", {"format": "png"}),
    ],
)
def test_a_prefix_that_no_file_can_have(
    app: App, submit: Callable[..., Any], prefix: str, name: str, inputs: Graph
) -> None:
    error = refused(submit, save(name, filename_prefix=prefix, **inputs))
    (found,) = error.node_errors["2"]["errors"]
    assert found["type"] == "custom_validation_failed"
    assert "filename_prefix" in found["details"]
    assert not list(app.folders.output.iterdir())


def test_a_prefix_that_comes_over_a_link(submit: Callable[..., Any]) -> None:
    graph = {**save(filename_prefix=["3", 0]), "3": node("PrimitiveString", value="../out")}
    assert submit(graph)[1].status is JobStatus.FAILED
