"""What a job waits for, and what it runs in."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import torch
from comfyk import io
from comfyk.app import App
from comfyk.jobs.model import JobStatus
from comfyk_core_nodes.nodes import WITHOUT_TORCH


class Modes(io.ComfyNode):
    """Says whether it runs in inference mode, before and after an await."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="Modes", is_output_node=True)

    @classmethod
    async def execute(cls) -> io.NodeOutput:
        import asyncio

        before = torch.is_inference_mode_enabled()
        await asyncio.sleep(0)
        return io.NodeOutput(ui={"modes": [before, torch.is_inference_mode_enabled()]})


async def test_jobs_run_in_inference_mode(app: App) -> None:
    app.nodes.add(Modes)
    async with app:
        submission = await app.jobs.submit({"a": {"class_type": "Modes", "inputs": {}}})
        outcome = await app.jobs.wait(submission.job.id)
    assert outcome.outputs["a"]["modes"] == [True, True]
    assert not torch.is_inference_mode_enabled()


JOB = """
import asyncio, json, sys
import comfyk_core_nodes.plugin
from comfyk.app import App
from comfyk.plugins import Plugins
from comfyk.settings import load_settings

async def run():
    plugins = Plugins()
    plugins.register(comfyk_core_nodes.plugin, "core-nodes")
    async with App(load_settings(plugins, overrides={"folders.base": sys.argv[1]}), plugins) as app:
        submission = await app.jobs.submit(json.loads(sys.argv[2]))
        outcome = await app.jobs.wait(submission.job.id)
        print(json.dumps({"status": outcome.status, "outputs": outcome.outputs, "torch": "torch" in sys.modules}))

asyncio.run(run())
"""


def in_a_new_process(folder: Any, **nodes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A job in a server that has not imported torch yet; whether it has at the job's end."""
    graph = {node_id: {"class_type": name, "inputs": inputs} for node_id, (name, inputs) in nodes.items()}
    command = [sys.executable, "-c", JOB, str(folder), json.dumps(graph)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_job_without_torch_nodes_does_not_wait_for_torch(tmp_path: Any) -> None:
    """All of those that are said to do without it."""
    box = {"x": 1, "y": 2, "width": 3, "height": 4}
    given = {
        "PrimitiveString": {"value": "a"},
        "PrimitiveStringMultiline": {"value": "b"},
        "PrimitiveInt": {"value": 7},
        "PrimitiveFloat": {"value": 0.5},
        "PrimitiveBoolean": {"value": True},
        "PrimitiveBoundingBox": box,
    }
    nodes: dict[str, tuple[str, dict[str, Any]]] = {name: (name, inputs) for name, inputs in given.items()}
    nodes |= {f"show {name}": ("PreviewAny", {"source": [name, 0]}) for name in given}
    assert {name for name, _ in nodes.values()} == {node.GET_SCHEMA().node_id for node in WITHOUT_TORCH}
    seen = in_a_new_process(tmp_path, **nodes)
    assert seen["status"] == JobStatus.COMPLETED
    assert not seen["torch"]
    shown = {name.removeprefix("show "): output["text"][0] for name, output in seen["outputs"].items()}
    assert json.loads(shown.pop("PrimitiveBoundingBox")) == box
    assert [*shown.values()] == ["a", "b", "7", "0.5", "True"]


def test_a_job_with_one_has_torch_from_its_start(tmp_path: Any) -> None:
    mask = ("SolidMask", {"value": 0.25, "width": 1, "height": 1})
    seen = in_a_new_process(tmp_path, mask=mask, show=("PreviewAny", {"source": ["mask", 0]}))
    assert seen["torch"]
    assert seen["outputs"]["show"]["text"] == ["tensor([[[0.2500]]])"]
