"""VAEs that are no autoencoders of a checkpoint: TAESD from its two files, and pixels as they are."""

from __future__ import annotations

import os

import torch

from comfyk_core_nodes.vae.vae import PIXELS, VAE
from comfyk_core_nodes.weights.files import ModelFileError, load_torch_file

_SCALE_AND_SHIFT = {
    "taesd": (0.18215, 0.0),
    "taesdxl": (0.13025, 0.0),
    "taesd3": (1.5305, 0.0609),
    "taef1": (0.3611, 0.1159),
}
"""From latents of a family's VAE to those that its TAESD was trained on."""


def load_taesd(name: str, encoder: str | os.PathLike[str], decoder: str | os.PathLike[str]) -> VAE:
    """The TAESD of that name. Raises ModelFileError for files of something else."""
    state = {}
    for half, path in (("encoder", encoder), ("decoder", decoder)):
        weights, _ = load_torch_file(path)
        state |= {f"taesd_{half}.{key}": value for key, value in weights.items()}
    scale, shift = _SCALE_AND_SHIFT.get(name, (1.0, 0.0))
    state["vae_scale"], state["vae_shift"] = torch.tensor(scale), torch.tensor(shift)
    try:
        return VAE(state)
    except ValueError as error:
        raise ModelFileError(decoder, "a TAESD with its encoder", str(error)) from error


def load_pixel_space() -> VAE:
    """Pictures from -1 to 1 in place of latents: `[B, 3, H, W]`."""
    return VAE({PIXELS: torch.tensor(1.0)})
