"""What models that were trained to inpaint or to edit get next to the noise: the picture, and where it is to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from comfyk_core_nodes.families.missing_parts import present
from comfyk_core_nodes.sampling.conditioning import (
    Conditioning,
    NewConditioning,
    conditioning_set_values,
)

if TYPE_CHECKING:
    from torch import Tensor

_MULTIPLE = 8


class Encoder(Protocol):
    """A VAE: pictures `[B, H, W, 3]` to latents `[B, C, H/8, W/8]`."""

    def encode(self, pixels: Tensor, /) -> Tensor: ...


def crop_to_multiple(image: Tensor, multiple: int = _MULTIPLE) -> Tensor:
    """The middle of `[B, H, W, ...]` whose height and width are multiples of 8, or of another number.

    Raises ValueError where nothing would be left.
    """
    height, width = image.shape[1:3]
    if min(height, width) < multiple:
        raise ValueError(
            f"the picture is {width}x{height}; at least {multiple}x{multiple} is needed: scale it up first"
        )
    top, left = height % multiple // 2, width % multiple // 2
    return image[:, top : top + height // multiple * multiple, left : left + width // multiple * multiple]


def inpaint_conditioning(
    positive: Conditioning,
    negative: Conditioning,
    vae: Encoder | None,
    pixels: Tensor,
    mask: Tensor,
    noise_mask: bool = True,
) -> tuple[NewConditioning, NewConditioning, dict[str, Any]]:
    """Both conditionings with the picture outside of `mask` and the mask, and a latent dict of the whole picture.

    `pixels` is `[B, H, W, 3]`, `mask` `[B, h, w]`, 1 where the picture is to change. With `noise_mask` sampling leaves
    the rest alone. Raises ValueError without a VAE and for a picture of fewer than 8 pixels a side.
    """
    vae = present(vae, "VAE")
    hidden, mask = _hide(pixels, mask, _MULTIPLE)
    values = {"concat_latent_image": vae.encode(hidden), "concat_mask": mask}
    latent: dict[str, Any] = {"samples": vae.encode(pixels)}
    if noise_mask:
        latent["noise_mask"] = mask
    return conditioning_set_values(positive, values), conditioning_set_values(negative, values), latent


def edit_conditioning(
    positive: Conditioning, negative: Conditioning, vae: Encoder | None, pixels: Tensor
) -> tuple[NewConditioning, NewConditioning, dict[str, Any]]:
    """Both conditionings with the picture, for InstructPix2Pix, and an empty latent dict of its size."""
    import torch

    encoded = present(vae, "VAE").encode(crop_to_multiple(pixels))
    values = {"concat_latent_image": encoded}
    latent = {"samples": torch.zeros_like(encoded)}
    return conditioning_set_values(positive, values), conditioning_set_values(negative, values), latent


def upscale_conditioning(
    positive: Conditioning,
    negative: Conditioning,
    pictures: Tensor,
    scale: float,
    noise_augmentation: float,
) -> tuple[NewConditioning, NewConditioning, dict[str, Any]]:
    """Both conditionings with `[B, H, W, C]`, for the x4 upscaler, and an empty latent dict for `scale` times the size.

    The upscaler's latents have a fourth of the result's width and height.
    """
    import torch

    from comfyk_core_nodes.images.resize import resize_images

    width, height = (max(1, round(pictures.shape[dim] * scale)) // 4 for dim in (2, 1))
    small = resize_images(pictures * 2.0 - 1.0, width, height, "bilinear", "center").movedim(-1, 1)
    values = {"concat_image": small, "noise_augmentation": noise_augmentation}
    latent = {"samples": torch.zeros(pictures.shape[0], 4, height, width)}
    return conditioning_set_values(positive, values), conditioning_set_values(negative, values), latent


def inpaint_latent(vae: Any, pixels: Tensor, mask: Tensor, grow: int) -> dict[str, Any]:
    """A latent dict of `[B, H, W, 3]` with grey where `mask` is, and the mask, `grow` pixels wider, as `noise_mask`."""
    import torch

    vae = present(vae, "VAE")
    hidden, mask = _hide(pixels, mask, vae.spacial_compression_encode())
    wider = mask
    if grow > 0:
        kernel = torch.ones(1, 1, grow, grow)
        wider = torch.nn.functional.conv2d(mask.round(), kernel, padding=grow // 2).clamp(0, 1)
    height, width = mask.shape[2:]
    return {"samples": vae.encode(hidden), "noise_mask": wider[:, :, :height, :width].round()}


def masked_hint(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A hint `[B, H, W, C]` that is black where `mask` is, and what is kept of it as `[B, 1, h, w]`."""
    from comfyk_core_nodes.images.resize import resize_images

    kept = (1.0 - mask).reshape(-1, 1, *mask.shape[-2:])
    fitted = resize_images(kept.movedim(1, -1), image.shape[2], image.shape[1], "bilinear", "center")
    return image * fitted.round(), kept


def _hide(pixels: Tensor, mask: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """The picture with grey where the mask is, and the mask `[B, 1, H, W]`, both cut to multiples of a size."""
    import torch

    size = (pixels.shape[1], pixels.shape[2])
    mask = torch.nn.functional.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]), size=size, mode="bilinear")
    mask = crop_to_multiple(mask.movedim(1, -1), multiple).movedim(-1, 1)
    hidden = crop_to_multiple(pixels, multiple).clone()
    hidden[..., :3] = (hidden[..., :3] - 0.5) * (1.0 - mask.round()).movedim(1, -1) + 0.5
    return hidden, mask
