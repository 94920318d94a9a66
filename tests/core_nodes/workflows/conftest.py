"""The workflows of `docs/workflows`, and an app with tiny random models under the names that they use."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk import io
from comfyk.app import App
from comfyk.jobs.model import JobStatus
from PIL import Image
from safetensors.torch import save_file

from ..tiny_models import make_checkpoint, randomised

Graph = dict[str, Any]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with an SD 1.5, an SDXL base and refiner, a LoRA, a ControlNet and an upscale model."""
    from diffusers import ControlNetModel

    root = tmp_path_factory.mktemp("models")

    def write(name: str, state: dict[str, torch.Tensor]) -> None:
        path = root / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({key: value.contiguous() for key, value in state.items()}, path)

    torch.manual_seed(3)
    sd15 = make_checkpoint("sd1")
    write("checkpoints/sd15", sd15)
    write("checkpoints/sdxl_base", make_checkpoint("sdxl"))
    write("checkpoints/sdxl_refiner", make_checkpoint("sdxl_refiner"))
    write("loras/style", _lora(sd15))
    control = ControlNetModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=8,
        conditioning_embedding_out_channels=(8, 16, 24, 32),
    )
    write("controlnet/control", randomised(control).state_dict())
    write("upscale_models/upscaler", _esrgan())
    return root


def _lora(checkpoint: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    rows, columns = checkpoint[key].shape
    return {
        f"lora_unet_{name}.lora_up.weight": torch.randn(rows, 2),
        f"lora_unet_{name}.lora_down.weight": torch.randn(2, columns),
        f"lora_unet_{name}.alpha": torch.tensor(2.0),
    }


def _esrgan(width: int = 8, grow: int = 4) -> dict[str, torch.Tensor]:
    """ESRGAN of one block, twice as large twice over."""
    state: dict[str, torch.Tensor] = {}

    def conv(name: str, inside: int, out: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, inside, 3, 3) * 0.1
        state[f"{name}.bias"] = torch.zeros(out)

    conv("conv_first", 3, width)
    for dense in (1, 2, 3):
        for number in range(1, 6):
            out = width if number == 5 else grow
            conv(f"body.0.rdb{dense}.conv{number}", width + (number - 1) * grow, out)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        conv(name, width, width)
    conv("conv_last", width, 3)
    return state


class EmptyLatentImage(io.ComfyNode):
    """Stands in where the app has none of its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        sizes = [io.Int.Input(name) for name in ("width", "height", "batch_size")]
        return io.Schema(node_id="EmptyLatentImage", inputs=[*sizes], outputs=[io.Latent.Output()])

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int) -> io.NodeOutput:
        return io.NodeOutput({"samples": torch.zeros(batch_size, 4, height // 8, width // 8)})


@pytest.fixture
def studio(app: App, models: Path) -> App:
    """The app with those models, and a photo with a transparent corner."""
    app.folders.models.symlink_to(models)
    photo = Image.new("RGBA", (64, 48), (200, 120, 40, 255))
    photo.paste((0, 0, 0, 0), (0, 0, 24, 24))
    photo.save(app.folders.input / "photo.png")
    if "EmptyLatentImage" not in app.nodes.names():
        app.nodes.add(EmptyLatentImage)
    return app


@pytest.fixture
def workflow() -> Callable[..., Graph]:
    """`workflow("txt2img", seed=1)`: one of `docs/workflows`, small and of few steps, with other values put in."""

    def load(name: str, **values: Any) -> Graph:
        graph = json.loads((ROOT / "docs" / "workflows" / f"{name}.json").read_text())
        small = {"steps": 3, "width": 64, "height": 64, "start_at_step": 2, **values}
        for node in graph.values():
            for key, value in small.items():
                if key == "start_at_step" and not node["inputs"].get(key):
                    continue
                if not isinstance(node["inputs"].get(key, []), list):
                    node["inputs"][key] = value
            if node["inputs"].get("end_at_step") == 20:
                node["inputs"]["end_at_step"] = 2
        return graph

    return load


@pytest.fixture
def make(studio: App) -> Callable[..., list[Image.Image]]:
    """Run workflows one after the other in one running app, and give the pictures of the last."""

    async def run(graphs: tuple[Graph, ...]) -> list[Image.Image]:
        async with studio:
            for graph in graphs:
                submission = await studio.jobs.submit(graph)
                outcome = await studio.jobs.wait(submission.job.id)
                assert outcome.status is JobStatus.COMPLETED, outcome.error
        saved = [image for output in outcome.outputs.values() for image in output.get("images", ())]
        return [Image.open(studio.folders.output / image["subfolder"] / image["filename"]) for image in saved]

    return lambda *graphs: asyncio.run(run(graphs))
