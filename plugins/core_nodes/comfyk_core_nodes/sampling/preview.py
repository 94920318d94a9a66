"""Pictures of work under way: a rough picture of the denoised latent after each step, sent with the progress."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from typing import Any

import comfyk
import torch
from comfyk.events import PreviewImage
from comfyk.folders import Folders
from torch import Tensor

from comfyk_core_nodes.sampling.guidance import StepCallback
from comfyk_core_nodes.vae.taesd import load_decoder
from comfyk_core_nodes.weights.files import load_torch_file

log = logging.getLogger(__name__)

Previewer = Callable[[Tensor], Tensor]
"""A denoised latent, `[B, C, ...]`, to a picture of its first item, `[H, W, 3]` in -1..1."""

PREVIEW_SIZE = 512
"""Pixels of a preview's longer side."""
_JPEG_QUALITY = 95


def rgb_previewer(
    factors: Sequence[Sequence[float]],
    bias: Sequence[float] | None = None,
    reshape: Callable[[Tensor], Tensor] | None = None,
) -> Previewer:
    """Each latent place as a pixel: `factors`, `[C, 3]`, say how much of a channel there is in red, green and blue.

    Of a video latent, `[B, C, T, H, W]`, it is the first frame. `reshape` goes first.
    """
    weights = torch.tensor(factors, dtype=torch.float32)
    offsets = torch.zeros(3) if bias is None else torch.tensor(bias, dtype=torch.float32)

    def preview(latent: Tensor) -> Tensor:
        if reshape is not None:
            latent = reshape(latent)
        first = latent[0, :, 0] if latent.ndim == 5 else latent[0]
        return first.movedim(0, -1).float().cpu() @ weights + offsets

    return preview


def decoded_previewer(decode: Callable[[Tensor], Tensor]) -> Previewer:
    """By a small decoder such as TAESD's: `[1, C, H, W]` to `[1, 3, 8H, 8W]` in -1..1."""
    return lambda latent: decode(latent[:1])[0].movedim(0, -1)


def preview_image(picture: Tensor, size: int = PREVIEW_SIZE) -> PreviewImage:
    """`[H, W, 3]` in -1..1 as JPEG, its longer side `size` pixels."""
    from PIL import Image, ImageOps

    pixels = ((picture.detach().float() + 1) / 2).clamp(0, 1).mul(255).to("cpu", torch.uint8)
    image = ImageOps.contain(Image.fromarray(pixels.numpy()), (size, size), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return PreviewImage(data=buffer.getvalue(), format="JPEG")


def latent_previewer(latent_format: Any) -> Previewer | None:
    """The rough colours of a kind of latent, None where they are not known."""
    factors = latent_format.latent_rgb_factors
    if factors is None:
        return None
    return rgb_previewer(
        factors,
        getattr(latent_format, "latent_rgb_factors_bias", None),
        getattr(latent_format, "latent_rgb_factors_reshape", None),
    )


def find_previewer(
    latent_format: Any, method: str, folders: Folders, device: torch.device
) -> Previewer | None:
    """What the setting `previews.method` stands for: `none`, `auto`, `latent2rgb` or `taesd`.

    TAESD's decoder is the file in `vae_approx` that the latent format names; without one it is rough colours, and so it
    is for `auto`. Raises ValueError for a file that is something else.
    """
    if method == "none":
        return None
    wanted = latent_format.taesd_decoder_name
    if method == "taesd" and wanted is not None:
        name = next((name for name in folders.filenames("vae_approx") if name.startswith(wanted)), None)
        path = None if name is None else folders.find("vae_approx", name)
        if path is not None:
            state, _ = load_torch_file(path)
            decoder = load_decoder(state).to(device)
            return decoded_previewer(lambda latent: decoder(latent.to(device)) * 2 - 1)
        log.warning("previews are in rough colours: there is no %s in models/vae_approx", wanted)
    return latent_previewer(latent_format)


def step_callback(
    previewer: Previewer | None = None, size: int = PREVIEW_SIZE, x0_output: dict[str, Tensor] | None = None
) -> StepCallback:
    """Report each step as progress of the running node, with a preview of `size` pixels.

    The denoised latent of the last step, in the model's scale, is also put into `x0_output` as `x0`. Raises
    `comfyk.context.Interrupted` when the job was asked to stop.
    """

    def callback(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        if x0_output is not None:
            x0_output["x0"] = x0
        preview = None if previewer is None else preview_image(previewer(x0), size)
        # dpm_adaptive does not know how many steps it will take.
        comfyk.progress(min(step + 1, total), total, preview)

    return callback
