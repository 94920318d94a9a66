"""Functions from a latent to one of the same shape, as nodes hand them on (`operation(latent=tensor)`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Operation = Callable[..., "Tensor"]


def reinhard_tonemap(multiplier: float) -> Operation:
    """Compress long vectors of channels, which keeps colours from burning out at a high guidance.

    A length `l` becomes `l / (1 + l / top)`, with `top` `multiplier` times the mean and five standard deviations
    of the lengths of its item (Reinhard et al. 2002, "Photographic Tone Reproduction for Digital Images").
    """

    def operation(latent: Tensor, **_: Any) -> Tensor:
        import torch

        length = torch.linalg.vector_norm(latent, dim=1, keepdim=True) + 1e-10
        dims = tuple(range(1, length.ndim))
        top = (length.std(dims, keepdim=True) * 5 + length.mean(dims, keepdim=True)) * multiplier
        scaled = length * (1.0 / top)
        return latent / length * (scaled / (scaled + 1.0) * top)

    return operation


def sharpen(radius: int, sigma: float, alpha: float) -> Operation:
    """Strengthen what differs from its surroundings in the direction of the vectors of channels; lengths stay.

    The surroundings are a Gaussian of `2 radius + 1` pixels, of deviation `sigma` where half the window is 1;
    `alpha` is the strength. A latent must have more than `radius` pixels a side.
    """

    def operation(latent: Tensor, **_: Any) -> Tensor:
        import torch

        if min(latent.shape[-2:]) <= radius:
            raise ValueError(
                f"sharpen_radius {radius} is too large for a latent of {latent.shape[-1]}x{latent.shape[-2]}"
            )
        length = torch.linalg.vector_norm(latent, dim=1, keepdim=True) + 1e-6
        planes = (latent / length).reshape(-1, 1, *latent.shape[-2:])
        padded = torch.nn.functional.pad(planes, (radius,) * 4, mode="reflect")
        kernel = _sharpening_kernel(radius, sigma, alpha).to(latent)
        return torch.nn.functional.conv2d(padded, kernel[None, None]).reshape(latent.shape) * length

    return operation


def _sharpening_kernel(radius: int, sigma: float, alpha: float) -> Tensor:
    """`[2r + 1, 2r + 1]`, of sum 1: ten times `alpha` of the surroundings is taken from the pixel."""
    import torch

    place = torch.linspace(-1, 1, 2 * radius + 1)
    gaussian = torch.exp(-(place[:, None] ** 2 + place**2) / (2.0 * sigma * sigma))
    kernel = gaussian / gaussian.sum() * (-10 * alpha)
    kernel[radius, radius] += 1.0 - kernel.sum()
    return kernel


def on_guidance(operation: Operation) -> Callable[[dict[str, Any]], list[Tensor]]:
    """For `set_model_sampler_pre_cfg_function`: applies the operation to what the prompt adds to the result.

    Without a negative conditioning it is applied to the result itself.
    """

    def before_guidance(args: dict[str, Any]) -> list[Tensor]:
        cond, *rest = args["conds_out"]
        if len(rest) == 1:
            return [operation(latent=cond - rest[0]) + rest[0], *rest]
        return [operation(latent=cond), *rest]

    return before_guidance
