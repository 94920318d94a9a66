"""A picture that is black for want of numbers: the node where they went says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfyk.app import App
from comfyk.events import ProgressText
from comfyk.jobs.model import JobStatus
from torch import Tensor

State = dict[str, Tensor]

UNET = "model.diffusion_model.out.2.bias"
VAE = "first_stage_model.decoder.conv_out.bias"


def txt2img(decode: str) -> dict[str, Any]:
    def node(name: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": name, "inputs": inputs}

    tiles = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    return {
        "loader": node("CheckpointLoaderSimple", ckpt_name="tiny.safetensors"),
        "text": node("CLIPTextEncode", clip=["loader", 1], text="a house"),
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sampler": node(
            "KSampler", model=["loader", 0], positive=["text", 0], negative=["text", 0],
            latent_image=["empty", 0], seed=1, steps=1, cfg=1.0, denoise=1.0, sampler_name="euler",
            scheduler="normal",
        ),
        "decode": node(
            decode, samples=["sampler", 0], vae=["loader", 2], **(tiles if decode == "VAEDecodeTiled" else {})
        ),
        "save": node("PreviewImage", images=["decode", 0]),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "decode", "nodes"),
    [
        (UNET, float("nan"), "VAEDecode", ["sampler", "decode", "save"]),
        (UNET, float("inf"), "VAEDecode", ["sampler", "decode", "save"]),
        (VAE, float("nan"), "VAEDecode", ["decode", "save"]),
        (VAE, float("nan"), "VAEDecodeTiled", ["decode", "save"]),
        (VAE, 0.0, "VAEDecode", []),
    ],
)
def test_a_warning_on_the_node(
    app: App, put: Callable[..., str], states: Callable[[str], State], caplog: pytest.LogCaptureFixture,
    key: str, value: float, decode: str, nodes: list[str],
) -> None:  # fmt: skip
    state = dict(states("sd1"))
    state[key] = torch.full_like(state[key], value)
    put("checkpoints", "tiny.safetensors", state)
    told: list[ProgressText] = []

    async def run() -> JobStatus:
        async with app:
            app.events.subscribe(told.append, ProgressText)
            submission = await app.jobs.submit(txt2img(decode))
            return (await app.jobs.wait(submission.job.id)).status

    assert asyncio.run(run()) is JobStatus.COMPLETED
    warnings = [event for event in told if event.text.startswith("Warning: ")]
    assert [event.node for event in warnings] == nodes
    assert all("are no numbers" in event.text for event in warnings)
    assert ("are no numbers" in caplog.text) is bool(nodes)
    if nodes[:1] == ["sampler"]:
        assert "256 of 256 values of the latent" in warnings[0].text and "--force-fp32" in warnings[0].text
    elif nodes:
        assert (
            "12,288 of 12,288 values of the picture" in warnings[0].text and "--fp32-vae" in warnings[0].text
        )
