"""Files of weights that another program writes to while a job uses them: it fails, and the next is of the new file."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk import io
from comfyk.app import App
from comfyk.jobs.model import JobStatus, Outcome
from comfyk_core_nodes.devices.settings import device_settings
from comfyk_core_nodes.memory.manager import unload_all_models
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.weights.bus_errors import guard
from torch import Tensor

pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.skipif(guard() is None, reason="there is no guard for this system"),
]

Graph = dict[str, Any]
State = dict[str, Tensor]
Run = Callable[..., list[Outcome]]


class Harm:
    """What is done to a file in the middle of a job, once."""

    def __init__(self) -> None:
        self.what: Callable[[], Any] | None = None

    def do(self) -> None:
        if self.what is not None:
            what, self.what = self.what, None
            what()


@pytest.fixture
def harm() -> Harm:
    return Harm()


@pytest.fixture
def vram(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The setting `device.vram` of the app, which has to be made after this."""
    value = getattr(request, "param", "auto")
    monkeypatch.setenv("COMFYK_DEVICE__VRAM", value)
    return value


@pytest.fixture
def studio(vram: str, app: App, harm: Harm) -> App:
    """The app with a node that hands on whatever it gets, and does harm when it runs or in the model's second step."""

    class Pass(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id="Pass",
                inputs=[io.AnyType.Input("value"), io.Boolean.Input("in_a_step", default=False)],
                outputs=[io.AnyType.Output()],
                not_idempotent=True,
            )

        @classmethod
        def execute(cls, value: Any, in_a_step: bool) -> io.NodeOutput:
            if not in_a_step:
                harm.do()
                return io.NodeOutput(value)
            calls: list[int] = []

            def apply(function: Callable[..., Tensor], options: dict[str, Any]) -> Tensor:
                calls.append(1)
                if len(calls) == 2:
                    harm.do()
                return function(options["input"], options["timestep"], **options["c"])

            assert isinstance(value, ModelPatcher)
            value = value.clone()
            value.set_model_unet_function_wrapper(apply)
            return io.NodeOutput(value)

    app.nodes.add(Pass)
    unload_all_models()
    return app


@pytest.fixture
def run(studio: App, harm: Harm) -> Run:
    """`run((graph, harm), ...)`: the outcomes of jobs one after the other, each with what to do in its middle."""

    async def all_of(jobs: tuple[tuple[Graph, Callable[[], Any] | None], ...]) -> list[Outcome]:
        outcomes = []
        async with studio:
            for graph, what in jobs:
                harm.what = what
                submission = await studio.jobs.submit(graph)
                outcomes.append(await studio.jobs.wait(submission.job.id))
        return outcomes

    return lambda *jobs: asyncio.run(all_of(jobs))


def graph(name: str, harm_before: str, in_a_step: bool = False, seed: int = 1, **more: Any) -> Graph:
    """txt2img, with the harmful node before one input of one node, as in `sampler.model`."""
    nodes: Graph = {
        "loader": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"text": "a house", "clip": ["loader", 1]}},
        "empty": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1},
        },
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                **{"model": ["loader", 0], "positive": ["text", 0], "negative": ["text", 0]},
                **{"latent_image": ["empty", 0], "seed": seed, "steps": 4, "cfg": 1.0, "denoise": 1.0},
                **{"sampler_name": "euler", "scheduler": "normal"},
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["loader", 2]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "out"}},
    }
    nodes.update(more)
    node, _, key = harm_before.partition(".")
    nodes["harm"] = {
        "class_type": "Pass",
        "inputs": {"value": nodes[node]["inputs"][key], "in_a_step": in_a_step},
    }
    nodes[node]["inputs"][key] = ["harm", 0]
    return nodes


def picture(studio: App, outcome: Outcome) -> bytes:
    assert outcome.status is JobStatus.COMPLETED, outcome.error
    (image,) = outcome.outputs["save"]["images"]
    from PIL import Image

    return Image.open(studio.folders.output / image["filename"]).tobytes()


def check_job_alone(studio: App, outcomes: list[Outcome], name: str) -> None:
    """The first job fails and names the file; the second and third, of the new file, draw the same picture."""
    failed, second, third = outcomes
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None and name in failed.error["exception_message"]
    assert picture(studio, second) == picture(studio, third)


@pytest.mark.parametrize(
    ("vram", "place", "in_a_step"),
    [
        *(("auto", place, False) for place in ("text.clip", "sampler.model", "decode.vae")),
        *((vram, "sampler.model", True) for vram in ("auto", "low", "none", "high", "gpu-only")),
    ],
    indirect=["vram"],
)
def test_a_checkpoint_that_gets_shorter(
    studio: App, run: Run, put: Callable[..., str], states: Callable[[str], State], vram: str,
    place: str, in_a_step: bool,
) -> None:  # fmt: skip
    assert device_settings().vram == vram
    name = put("checkpoints", "shrinks.safetensors", states("sd1"))
    put("checkpoints", "again.safetensors", states("sd1"))
    path = studio.folders.models / "checkpoints" / name
    whole = path.read_bytes()
    outcomes = run(
        (graph(name, place, in_a_step), lambda: os.truncate(path, len(whole) // 20)),
        (graph("again.safetensors", place), lambda: path.write_bytes(whole)),
        (graph(name, place), None),
    )
    check_job_alone(studio, outcomes, name)


def test_a_pickle_that_gets_shorter(
    studio: App, run: Run, put: Callable[..., str], states: Callable[[str], State]
) -> None:
    name = put("checkpoints", "shrinks.ckpt", states("sd1"))
    put("checkpoints", "again.ckpt", states("sd1"))
    path = studio.folders.models / "checkpoints" / name
    whole = path.read_bytes()
    outcomes = run(
        (graph(name, "sampler.model"), lambda: os.truncate(path, len(whole) // 20)),
        (graph("again.ckpt", "sampler.model"), lambda: path.write_bytes(whole)),
        (graph(name, "sampler.model"), None),
    )
    check_job_alone(studio, outcomes, name)


def lora(up: float) -> State:
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    down = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    return {f"{stem}.lora_up.weight": torch.full((32, 4), up), f"{stem}.lora_down.weight": down}


def with_lora(name: str) -> Graph:
    node = {
        "class_type": "LoraLoaderModelOnly",
        "inputs": {"model": ["loader", 0], "lora_name": name, "strength_model": 1.0},
    }
    nodes = graph("plain.safetensors", "sampler.model", lora=node)
    nodes["harm"]["inputs"]["value"] = ["lora", 0]
    return nodes


@pytest.mark.parametrize("kept", [0, 400])
def test_a_lora_that_gets_shorter(
    studio: App, run: Run, put: Callable[..., str], states: Callable[[str], State], kept: int
) -> None:
    """Of one that is cut within a page the rest of the page reads as zeros, without a signal."""
    put("checkpoints", "plain.safetensors", states("sd1"))
    name, other = put("loras", "shrinks.safetensors", lora(0.5)), put("loras", "again.safetensors", lora(0.5))
    path = studio.folders.models / "loras" / name
    whole = path.read_bytes()
    outcomes = run(
        (with_lora(name), lambda: os.truncate(path, kept)),
        (with_lora(other), lambda: path.write_bytes(whole)),
        (with_lora(name), None),
    )
    check_job_alone(studio, outcomes, name)


def test_a_file_that_is_written_over(
    studio: App, run: Run, put: Callable[..., str], states: Callable[[str], State]
) -> None:
    """As `cp` does it, to the same size: what is mapped then is a mix of both."""
    name = put("checkpoints", "plain.safetensors", states("sd1"))
    other = {key: value * 0.9 for key, value in states("sd1").items()}
    put("checkpoints", "again.safetensors", other)
    folder: Path = studio.folders.models / "checkpoints"
    outcomes = run(
        (
            graph(name, "sampler.model"),
            lambda: shutil.copyfile(folder / "again.safetensors", folder / name),
        ),
        (graph("again.safetensors", "sampler.model"), None),
        (graph(name, "sampler.model"), None),
    )
    check_job_alone(studio, outcomes, name)


@pytest.mark.parametrize("gone", ["replaced", "deleted"])
def test_a_file_that_goes_is_used_to_the_end(
    studio: App, run: Run, put: Callable[..., str], states: Callable[[str], State], gone: str
) -> None:
    name = put("checkpoints", "plain.safetensors", states("sd1"))
    put("checkpoints", "same.safetensors", states("sd1"))
    path = studio.folders.models / "checkpoints" / name
    new = path.with_name("new.safetensors.part")
    new.write_bytes(b"another")

    def go() -> None:
        if gone == "replaced":
            os.replace(new, path)
        else:
            path.unlink()

    first, second = run(
        (graph(name, "sampler.model"), go), (graph("same.safetensors", "sampler.model"), None)
    )
    assert picture(studio, first) == picture(studio, second)
