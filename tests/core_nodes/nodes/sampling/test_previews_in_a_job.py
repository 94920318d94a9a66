"""Previews that a sampler sends while its job runs, by each method of `--preview-method`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import comfyk_core_nodes.plugin
import pytest
import torch
from comfyk import io
from comfyk.app import App
from comfyk.events import Event, Preview, ProgressState
from comfyk.jobs.model import JobStatus
from comfyk.plugins import Plugins
from comfyk.settings import load_settings
from comfyk_core_nodes.families.sd.latent_formats import SD15
from comfyk_core_nodes.vae.taesd import decoder
from PIL import Image
from safetensors.torch import save_file

from .recipes import text, wave

STEPS = 3


class Prompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="Prompt", inputs=[], outputs=[io.Conditioning.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput([[text(1.0), {}]])


GRAPH: dict[str, Any] = {
    "model": {"class_type": "Model", "inputs": {}},
    "text": {"class_type": "Prompt", "inputs": {}},
    "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 96, "height": 64, "batch_size": 2}},
    "sampler": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["model", 0],
            "seed": 1,
            "steps": STEPS,
            "cfg": 2.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "positive": ["text", 0],
            "negative": ["text", 0],
            "latent_image": ["latent", 0],
            "denoise": 1.0,
        },
    },
    "save": {"class_type": "SaveLatent", "inputs": {"samples": ["sampler", 0], "filename_prefix": "latent"}},
}


def custom(graph: dict[str, Any]) -> dict[str, Any]:
    """The same with the parts of a sampler as nodes of their own."""
    parts = {
        "noise": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}},
        "guider": {
            "class_type": "BasicGuider",
            "inputs": {"model": ["model", 0], "conditioning": ["text", 0]},
        },
        "name": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "sigmas": {
            "class_type": "BasicScheduler",
            "inputs": {"model": ["model", 0], "scheduler": "normal", "steps": STEPS, "denoise": 1.0},
        },
        "sampler": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["noise", 0],
                "guider": ["guider", 0],
                "sampler": ["name", 0],
                "sigmas": ["sigmas", 0],
                "latent_image": ["latent", 0],
            },
        },
    }
    return {**graph, **parts}


@pytest.fixture
def sent(tmp_path: Path, model: Any) -> Callable[..., list[Event]]:
    """`sent("taesd", size=64)`: the progress and previews of a job under those settings."""

    class Model(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(node_id="Model", inputs=[], outputs=[io.Model.Output()])

        @classmethod
        def execute(cls) -> io.NodeOutput:
            return io.NodeOutput(model)

    async def run(app: App, graph: dict[str, Any]) -> list[Event]:
        seen: list[Event] = []
        async with app:
            app.events.subscribe(seen.append)
            submission = await app.jobs.submit(graph)
            outcome = await app.jobs.wait(submission.job.id)
            assert outcome.status is JobStatus.COMPLETED, outcome.error
        return seen

    def call(method: Any, size: int = 64, graph: dict[str, Any] = GRAPH) -> list[Event]:
        plugins = Plugins()
        plugins.register(comfyk_core_nodes.plugin, "core-nodes")
        given = {"folders.base": tmp_path, "previews.method": method, "previews.size": size}
        app = App(load_settings(plugins, overrides=given), plugins)
        app.folders.create()
        app.register()
        for node in (Model, Prompt):
            app.nodes.add(node)
        return asyncio.run(run(app, graph))

    return call


def pictures(events: list[Event]) -> list[Image.Image]:
    previews = [event.image for event in events if isinstance(event, Preview)]
    assert {preview.format for preview in previews} <= {"JPEG"}
    return [Image.open(BytesIO(preview.data)) for preview in previews]


def test_without_previews_progress_is_told(sent: Callable[..., list[Event]]) -> None:
    events = sent("none")
    assert pictures(events) == []
    assert any(isinstance(event, ProgressState) for event in events)


@pytest.mark.parametrize("method", ["auto", "latent2rgb"])
@pytest.mark.parametrize("graph", [GRAPH, custom(GRAPH)], ids=["KSampler", "SamplerCustomAdvanced"])
def test_rough_colours_after_each_step(method: str, graph: Any, sent: Callable[..., list[Event]]) -> None:
    images = pictures(sent(method, graph=graph))
    # The longer side is of the asked size, the first item of the batch is shown.
    assert [(image.format, image.size) for image in images] == [("JPEG", (64, 43))] * STEPS
    assert images[0].tobytes() != images[-1].tobytes()


@pytest.mark.parametrize("size", [16, 300])
def test_the_size_is_the_settings(size: int, sent: Callable[..., list[Event]]) -> None:
    assert {max(image.size) for image in pictures(sent("latent2rgb", size))} == {size}


def test_a_small_decoder_shows_more(
    tmp_path: Path, sent: Callable[..., list[Event]], caplog: pytest.LogCaptureFixture
) -> None:
    rough = pictures(sent("taesd"))[-1]
    assert f"there is no {SD15.taesd_decoder_name} in models/vae_approx" in caplog.text
    caplog.clear()
    network = decoder()
    for number, parameter in enumerate(network.parameters()):
        with torch.no_grad():
            parameter.copy_(0.05 * wave(*parameter.shape, start=number))
    folder = tmp_path / "models" / "vae_approx"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / f"{SD15.taesd_decoder_name}.safetensors")
    images = pictures(sent("taesd", size=96))
    assert [image.size for image in images] == [(96, 64)] * STEPS
    assert "vae_approx" not in caplog.text
    assert images[-1].resize(rough.size).tobytes() != rough.tobytes()
