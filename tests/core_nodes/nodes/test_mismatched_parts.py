"""Parts of models that are missing, or that are of different families: the error says so, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfyk_core_nodes.families.registry import describe_prompt
from torch import Tensor

pytestmark = pytest.mark.usefixtures("in_a_job")

Out = Callable[..., Any]
File = dict[str, Tensor]
Load = Callable[[str], tuple[Any, Any, Any]]

LATENT = {"samples": torch.ones(1, 4, 8, 8)}
PICTURE, MASK = torch.zeros(1, 16, 16, 3), torch.zeros(1, 16, 16)
TILES = {"tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
PROMPT = [[torch.zeros(1, 77, 64), {}]]
BOTH = {"positive": PROMPT, "negative": PROMPT}
SAMPLING = {
    "seed": 1,
    "steps": 1,
    "cfg": 2.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "denoise": 1.0,
}
SIZES = {
    "width": 64,
    "height": 64,
    "crop_w": 0,
    "crop_h": 0,
    "target_width": 64,
    "target_height": 64,
    "text_g": "a house",
    "text_l": "red",
}


@pytest.fixture
def load(out: Out, put: Callable[..., str], states: Callable[[str], File]) -> Load:
    """`load("sd1")`: a model, its CLIP and its VAE."""

    def call(family: str) -> tuple[Any, Any, Any]:
        name = put("checkpoints", f"{family}.safetensors", states(family))
        return out("CheckpointLoaderSimple", ckpt_name=name)

    return call


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        ("VAEDecode", {"samples": LATENT, "vae": None}, "there is no VAE: .* Load VAE"),
        ("VAEDecodeTiled", {"samples": LATENT, "vae": None, **TILES}, "there is no VAE"),
        ("VAEEncode", {"pixels": PICTURE, "vae": None}, "there is no VAE"),
        ("VAEEncodeTiled", {"pixels": PICTURE, "vae": None, **TILES}, "there is no VAE"),
        (
            "GLIGENTextBoxApply",
            {
                "conditioning_to": PROMPT,
                "clip": None,
                "gligen_textbox_model": None,
                "text": "a cat",
                "width": 64,
                "height": 64,
                "x": 0,
                "y": 0,
            },
            "there is no text encoder",
        ),
        (
            "VAEEncodeForInpaint",
            {"pixels": PICTURE, "vae": None, "mask": MASK, "grow_mask_by": 6},
            "there is no VAE",
        ),
        (
            "InpaintModelConditioning",
            {**BOTH, "vae": None, "pixels": PICTURE, "mask": MASK, "noise_mask": True},
            "there is no VAE",
        ),
        ("InstructPixToPixConditioning", {**BOTH, "vae": None, "pixels": PICTURE}, "there is no VAE"),
        (
            "CLIPVisionEncode",
            {"clip_vision": None, "image": PICTURE, "crop": "center"},
            "there is no CLIP vision model: .* Load CLIP Vision",
        ),
        ("CLIPTextEncode", {"clip": None, "text": ""}, "there is no text encoder: .* Load CLIP"),
        ("CLIPSetLastLayer", {"clip": None, "stop_at_clip_layer": -2}, "there is no text encoder"),
        ("CLIPTextEncodeSDXL", {"clip": None, **SIZES}, "there is no text encoder"),
        (
            "CLIPTextEncodeSDXLRefiner",
            {"clip": None, "ascore": 6.0, "width": 64, "height": 64, "text": ""},
            "there is no text encoder",
        ),
    ],
)
def test_a_missing_part(out: Out, node: str, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        out(node, **inputs)


@pytest.mark.parametrize(("family", "has"), [("sd1", "clip_l"), ("sd2", "clip_h")])
def test_two_prompts_for_one_text_encoder(out: Out, load: Load, family: str, has: str) -> None:
    with pytest.raises(ValueError, match=f"this CLIP has only {has}: .* CLIPTextEncode"):
        out("CLIPTextEncodeSDXL", clip=load(family)[1], **SIZES)


@pytest.mark.parametrize("shape", [(1, 7, 4000, 3), (1, 16, 5, 3)])
def test_a_picture_of_less_than_a_latent_pixel(out: Out, load: Load, shape: tuple[int, ...]) -> None:
    pixels, vae = torch.zeros(shape), load("sd1")[2]
    message = f"the picture is {shape[2]}x{shape[1]}; at least 8x8 is needed"
    mask = torch.zeros(shape[:3])
    for node, inputs in (
        ("VAEEncode", {}),
        ("VAEEncodeTiled", TILES),
        ("VAEEncodeForInpaint", {"mask": mask, "grow_mask_by": 6}),
        ("InpaintModelConditioning", {**BOTH, "mask": mask, "noise_mask": True}),
        ("InstructPixToPixConditioning", BOTH),
    ):
        with pytest.raises(ValueError, match=message):
            out(node, pixels=pixels, vae=vae, **inputs)


@pytest.mark.parametrize("samples", [torch.ones(1, 16, 8, 8), torch.ones(4, 8, 8), torch.ones(1, 4, 1, 8, 8)])
def test_a_latent_of_another_family(out: Out, load: Load, samples: Tensor) -> None:
    model, _, vae = load("sd1")
    shape = re.escape(str(list(samples.shape)))
    for node, inputs in (("VAEDecode", {}), ("VAEDecodeTiled", TILES)):
        with pytest.raises(ValueError, match=rf"{shape}; this VAE decodes latents \[batch, 4"):
            out(node, samples={"samples": samples}, vae=vae, **inputs)
    with pytest.raises(ValueError, match=f"the latent is of the shape {shape}.* the model takes latents"):
        out("KSampler", model=model, latent_image={"samples": samples}, **BOTH, **SAMPLING)


@pytest.mark.parametrize(
    ("family", "other", "message"),
    [
        ("sd1", "sdxl", r"has 128 channels, and this model \(sd1\) takes 64 channels: .* same checkpoint"),
        ("sdxl", "sd1", r"has 64 channels, and this model \(sdxl\) takes 128 channels"),
        ("sdxl_refiner", "sdxl", r"has 128 channels, and this model \(sdxl_refiner\) takes 64"),
        ("sdxl_refiner", "sd1", r"has 1344 numbers, and this model \(sdxl_refiner\) takes 1328: .* same"),
    ],
)
def test_the_text_encoder_of_another_family(
    out: Out, load: Load, family: str, other: str, message: str
) -> None:
    prompt = out("CLIPTextEncode", clip=load(other)[1], text="a house")
    with pytest.raises(ValueError, match=message):
        out(
            "KSampler",
            model=load(family)[0],
            latent_image=LATENT,
            positive=prompt,
            negative=prompt,
            **SAMPLING,
        )


def test_a_prompt_without_a_pooled_output(out: Out, load: Load) -> None:
    prompt = [[torch.zeros(1, 77, 128), {}]]
    with pytest.raises(ValueError, match=r"without a pooled output, and this model \(sdxl\) takes one"):
        out(
            "KSampler",
            model=load("sdxl")[0],
            latent_image=LATENT,
            positive=prompt,
            negative=prompt,
            **SAMPLING,
        )


def test_the_real_widths_are_named() -> None:
    assert describe_prompt(768) == "768 channels (SD 1.x)"
    assert describe_prompt(2048) == "2048 channels (SDXL)"
    assert describe_prompt(64) == "64 channels"
