"""Whole jobs on a tiny checkpoint: they stop when they are asked to, and weights are loaded once for all of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from comfyk import io
from comfyk.app import App
from comfyk.jobs.model import JobStatus
from comfyk_core_nodes.memory.manager import loaded_models, unload_all_models
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.memory.residency import residency_of
from safetensors.torch import save_file
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("seeded")

Graph = dict[str, Any]


class Watch:
    """Sees where a network is, and at one place has the job interrupted while it is there."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.at: int | None = None
        """The number of places after which to interrupt."""
        self.interrupt: Callable[[], Any] = lambda: None

    def __call__(self, place: Any) -> None:
        self.seen.append(place)
        if len(self.seen) == self.at:
            self.interrupt()


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def watched(app: App, watch: Watch, checkpoint_state: Callable[..., dict[str, Tensor]]) -> App:
    """An app with a tiny checkpoint, and nodes that show its networks to `watch`."""

    class WatchModel(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id="WatchModel", inputs=[io.Model.Input("model")], outputs=[io.Model.Output()]
            )

        @classmethod
        def execute(cls, model: ModelPatcher) -> io.NodeOutput:
            def patch(h: Tensor, options: dict[str, Any]) -> Tensor:
                watch(options["block"])
                return h

            model = model.clone()
            model.set_model_input_block_patch(patch)
            return io.NodeOutput(model)

    class WatchVae(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(node_id="WatchVae", inputs=[io.Vae.Input("vae")], outputs=[io.Vae.Output()])

        @classmethod
        def execute(cls, vae: Any) -> io.NodeOutput:
            decoder: nn.Module = vae.first_stage_model.decoder
            for number, level in enumerate(decoder.up):  # type: ignore[arg-type]
                level.register_forward_hook(lambda *_, number=number: watch(number))
            return io.NodeOutput(vae)

    unload_all_models()
    folder = app.folders.models / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.contiguous() for key, value in checkpoint_state("sd1").items()}
    save_file(state, folder / "tiny.safetensors")
    app.nodes.add(WatchModel)
    app.nodes.add(WatchVae)
    return app


def txt2img(seed: int) -> Graph:
    def node(name: str, **inputs: Any) -> Graph:
        return {"class_type": name, "inputs": inputs}

    return {
        "file": node("CheckpointLoaderSimple", ckpt_name="tiny.safetensors"),
        "model": node("WatchModel", model=["file", 0]),
        "vae": node("WatchVae", vae=["file", 2]),
        "text": node("CLIPTextEncode", clip=["file", 1], text="a house"),
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sampler": node(
            "KSampler",
            model=["model", 0],
            seed=seed,
            steps=3,
            cfg=1.0,
            sampler_name="euler",
            scheduler="karras",
            positive=["text", 0],
            negative=["text", 0],
            latent_image=["empty", 0],
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
        "save": node("PreviewImage", images=["decode", 0]),
    }


async def run(app: App, watch: Watch, at: int | None, seed: int) -> Any:
    """The outcome of a job that is interrupted while the network is at its place `at`."""
    loop = asyncio.get_running_loop()
    job_id = ""

    def interrupt() -> None:
        arrived = threading.Event()

        def on_loop() -> None:
            assert app.jobs.interrupt(job_id)
            arrived.set()

        loop.call_soon_threadsafe(on_loop)
        assert arrived.wait(30)

    watch.seen.clear()
    watch.at, watch.interrupt = at, interrupt
    submission = await app.jobs.submit(txt2img(seed))
    job_id = submission.job.id
    return await app.jobs.wait(job_id)


def test_within_a_forward(watched: App, watch: Watch) -> None:
    """In the unet's second step, and in the decoder: no further block, step or level is begun."""

    async def jobs() -> None:
        async with watched:
            whole = await run(watched, watch, None, seed=1)
            assert whole.status is JobStatus.COMPLETED, whole.error
            places = list(watch.seen)
            assert places.count(("input", 0)) == 3
            second_step = places.index(("input", 0), 1) + 1
            assert places[second_step] == ("input", 1)
            for at in (second_step, len(places) - 1):
                stopped = await run(watched, watch, at, seed=2 + at)
                assert stopped.status is JobStatus.CANCELLED, stopped.error
                assert watch.seen == places[:at]
            again = await run(watched, watch, None, seed=99)
            assert again.status is JobStatus.COMPLETED, again.error
            assert watch.seen == places

    asyncio.run(jobs())


def test_a_second_job_on_the_same_checkpoint_loads_nothing(watched: App, watch: Watch) -> None:
    """Whichever clone of the model it is that the job's nodes made, and whatever else is new in the prompt."""

    def moved() -> dict[int, int]:
        return {id(model): residency_of(model).moved_bytes for model in loaded_models()}

    async def jobs() -> None:
        async with watched:
            states: list[dict[int, int]] = []
            for seed in (1, 2, 3):
                outcome = await run(watched, watch, None, seed)
                assert outcome.status is JobStatus.COMPLETED, outcome.error
                states.append(moved())
            assert len(states[0]) == 3
            assert sum(states[0].values()) > 0
            assert states == [states[0]] * 3

    asyncio.run(jobs())
