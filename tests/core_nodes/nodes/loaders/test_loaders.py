"""Loaders of what is not a checkpoint, and what they say when there is nothing to load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk.app import App
from comfyk_core_nodes.vae.taesd import TAESD
from safetensors.torch import save_file

pytestmark = pytest.mark.usefixtures("in_a_job")

Out = Callable[..., Any]


def write(app: App, kind: str, name: str, state: dict[str, torch.Tensor]) -> Path:
    path = app.folders.paths(kind)[0] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


@torch.inference_mode()
def test_taesd_is_listed_with_both_halves(app: App, out: Out) -> None:
    def names() -> list[str]:
        return app.nodes["VAELoader"].info()["input"]["required"]["vae_name"][0]

    assert names() == ["pixel_space"]
    state = TAESD().state_dict()
    for half in ("encoder", "decoder"):
        assert "taesd" not in names()
        start = f"taesd_{half}."
        own = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
        write(app, "vae_approx", f"taesd_{half}.safetensors", own)
    assert names() == ["taesd", "pixel_space"]
    vae = out("VAELoader", vae_name="taesd")
    latent = out("VAEEncode", pixels=torch.rand(1, 16, 24, 3), vae=vae)
    assert latent["samples"].shape == (1, 4, 2, 3)
    assert out("VAEDecode", samples=latent, vae=vae).shape == (1, 16, 24, 3)


@torch.inference_mode()
def test_pixel_space_takes_pictures_as_they_are(app: App, out: Out) -> None:
    vae = out("VAELoader", vae_name="pixel_space")
    pixels = torch.rand(2, 10, 12, 3)
    latent = out("VAEEncode", pixels=pixels, vae=vae)
    torch.testing.assert_close(latent["samples"], pixels.movedim(-1, 1) * 2 - 1)
    torch.testing.assert_close(out("VAEDecode", samples=latent, vae=vae), pixels)
    torch.testing.assert_close(latent["samples"], pixels.movedim(-1, 1) * 2 - 1)


@pytest.mark.parametrize(
    ("node", "values"),
    [
        ("CheckpointLoaderSimple", {"ckpt_name": "none.safetensors"}),
        ("VAELoader", {"vae_name": "taesd"}),
        ("UNETLoader", {"unet_name": "../none", "weight_dtype": "default"}),
        ("DiffusersLoader", {"model_path": "none"}),
    ],
)
def test_a_missing_file_is_named(app: App, out: Out, node: str, values: dict[str, str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"none|taesd"):
        out(node, **values)


def test_a_file_of_something_else_says_so(app: App, out: Out) -> None:
    write(app, "checkpoints", "odd.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"odd\.safetensors"):
        out("CheckpointLoaderSimple", ckpt_name="odd.safetensors")


def test_a_prompt_needs_a_text_encoder(out: Out) -> None:
    with pytest.raises(ValueError, match="text encoder"):
        out("CLIPTextEncode", text="a", clip=None)
