"""What models that were trained to inpaint or to edit get next to the noise: the picture, and where it is to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from comfyk_core_nodes.conditioning.edit import Conditioning, NewConditioning, conditioning_set_values

if TYPE_CHECKING:
    from torch import Tensor

_MULTIPLE = 8


class Encoder(Protocol):
    """A VAE: pictures `[B, H, W, 3]` to latents `[B, C, H/8, W/8]`."""

    def encode(self, pixels: Tensor) -> Tensor: ...


def crop_to_multiple(image: Tensor) -> Tensor:
    """The middle of `[B, H, W, ...]` whose height and width are multiples of 8."""
    height, width = image.shape[1:3]
    top, left = height % _MULTIPLE // 2, width % _MULTIPLE // 2
    return image[:, top : top + height // _MULTIPLE * _MULTIPLE, left : left + width // _MULTIPLE * _MULTIPLE]


def inpaint_conditioning(
    positive: Conditioning,
    negative: Conditioning,
    vae: Encoder,
    pixels: Tensor,
    mask: Tensor,
    noise_mask: bool = True,
) -> tuple[NewConditioning, NewConditioning, dict[str, Any]]:
    """Both conditionings with the picture outside of `mask` and the mask, and a latent dict of the whole picture.

    `pixels` is `[B, H, W, 3]`, `mask` `[B, h, w]`, 1 where the picture is to change. With `noise_mask` sampling leaves
    the rest alone.
    """
    import torch

    size = (pixels.shape[1], pixels.shape[2])
    mask = torch.nn.functional.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]), size=size, mode="bilinear")
    mask = crop_to_multiple(mask.movedim(1, -1)).movedim(-1, 1)
    kept = (1.0 - mask.round()).movedim(1, -1)
    hidden = crop_to_multiple(pixels).clone()
    hidden[..., :3] = (hidden[..., :3] - 0.5) * kept + 0.5
    values = {"concat_latent_image": vae.encode(hidden), "concat_mask": mask}
    latent: dict[str, Any] = {"samples": vae.encode(pixels)}
    if noise_mask:
        latent["noise_mask"] = mask
    return conditioning_set_values(positive, values), conditioning_set_values(negative, values), latent


def edit_conditioning(
    positive: Conditioning, negative: Conditioning, vae: Encoder, pixels: Tensor
) -> tuple[NewConditioning, NewConditioning, dict[str, Any]]:
    """Both conditionings with the picture, for InstructPix2Pix, and an empty latent dict of its size."""
    import torch

    encoded = vae.encode(crop_to_multiple(pixels))
    values = {"concat_latent_image": encoded}
    latent = {"samples": torch.zeros_like(encoded)}
    return conditioning_set_values(positive, values), conditioning_set_values(negative, values), latent
