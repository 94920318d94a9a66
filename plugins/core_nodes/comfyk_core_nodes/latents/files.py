"""Latents in files: `.latent`, which is safetensors with the tensor as `latent_tensor`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

EXTENSION = ".latent"
_TENSOR = "latent_tensor"
_UNSCALED = "latent_format_version_0"
"""An empty tensor that tells latents as they are from those of old files, which were multiplied by SD1.5's scale."""
_OLD_SCALE = 0.18215


def latent_file(samples: Tensor, metadata: Mapping[str, Any]) -> bytes:
    """The file for a latent of any shape; each value of `metadata` goes in as JSON."""
    import torch
    from safetensors.torch import save

    tensors = {_TENSOR: samples.detach().cpu().contiguous(), _UNSCALED: torch.tensor([])}
    return save(tensors, metadata={key: json.dumps(value) for key, value in metadata.items()})


def load_latent(path: Path) -> Tensor:
    """The latent of a file, `[B, C, ...]`, as float32. Raises ModelFileError for a file that has none."""
    import torch
    from safetensors import SafetensorError, safe_open

    from comfyk_core_nodes.weights.files import ModelFileError

    expected = f"a latent as SaveLatent writes it (safetensors with {_TENSOR})"
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            keys = list(file.keys())
            if _TENSOR not in keys:
                raise ModelFileError(
                    path, expected, f"a file with {', '.join(sorted(keys)[:5]) or 'nothing'}"
                )
            # A copy: the file may be written anew while the latent is in use.
            samples = file.get_tensor(_TENSOR).to(torch.float32, copy=True)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(path, expected, f"a file that cannot be read ({error})") from error
    if not 3 <= samples.ndim <= 5 or not samples.numel():
        raise ModelFileError(
            path, expected, f"a tensor of the shape {list(samples.shape)}, not [batch, channels, ...]"
        )
    return samples if _UNSCALED in keys else samples * (1.0 / _OLD_SCALE)
