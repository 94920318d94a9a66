"""Models in diffusers' layout: a folder with one for each network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from comfyk_core_nodes.families.checkpoint import Checkpoint, load_clip, load_diffusion_model, load_vae

_NETWORK = (
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.bin",
    "diffusion_pytorch_model.bin",
)
_TEXT = ("model.fp16.safetensors", "model.safetensors", "pytorch_model.fp16.bin", "pytorch_model.bin")


def load_diffusers_folder(folder: Path, embedding_directories: Sequence[str] = ()) -> Checkpoint:
    """The UNet, text encoders and VAE in `folder`. Raises FileNotFoundError for a UNet or VAE that is missing."""
    texts = [_first(folder / name, _TEXT) for name in ("text_encoder", "text_encoder_2")]
    found = [path for path in texts if path is not None]
    return Checkpoint(
        model=load_diffusion_model(_network(folder / "unet")),
        clip=load_clip(found, embedding_directories) if found else None,
        vae=load_vae(_network(folder / "vae")),
    )


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _network(folder: Path) -> Path:
    path = _first(folder, _NETWORK)
    if path is None:
        raise FileNotFoundError(f"there is no {_NETWORK[1]} in {folder}")
    return path
