"""TAESD, the tiny autoencoder for previews and quick decoding (Ollin Boer Bohan, github.com/madebyollin/taesd, MIT).

Latents are `[B, 4, H/8, W/8]` in the sampler's scale, pictures `[B, 3, H, W]` from -1 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from comfyk_core_nodes.weights.assign import fill
from comfyk_core_nodes.weights.layers import Conv2d

WIDTH = 64


class Block(nn.Module):
    """Three convolutions around a skip."""

    def __init__(self, width: int, device: Any = None) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            Conv2d(width, width, 3, padding=1, device=device),
            nn.ReLU(inplace=True),
            Conv2d(width, width, 3, padding=1, device=device),
            nn.ReLU(inplace=True),
            Conv2d(width, width, 3, padding=1, device=device),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.conv(x) + x)


class Clamp(nn.Module):
    """Keeps latents within 3 standard deviations, softly."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def encoder(latent_channels: int = 4, device: Any = None) -> nn.Sequential:
    layers: list[nn.Module] = [Conv2d(3, WIDTH, 3, padding=1, device=device), Block(WIDTH, device)]
    for _ in range(3):
        layers.append(Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False, device=device))
        layers.extend(Block(WIDTH, device) for _ in range(3))
    layers.append(Conv2d(WIDTH, latent_channels, 3, padding=1, device=device))
    return nn.Sequential(*layers)


def decoder(latent_channels: int = 4, device: Any = None) -> nn.Sequential:
    layers: list[nn.Module] = [
        Clamp(),
        Conv2d(latent_channels, WIDTH, 3, padding=1, device=device),
        nn.ReLU(inplace=True),
    ]
    for _ in range(3):
        layers.extend(Block(WIDTH, device) for _ in range(3))
        layers.append(nn.Upsample(scale_factor=2))
        layers.append(Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False, device=device))
    layers.extend([Block(WIDTH, device), Conv2d(WIDTH, 3, 3, padding=1, device=device)])
    return nn.Sequential(*layers)


class TAESD(nn.Module):
    """Both halves. `vae_scale` and `vae_shift` map the autoencoder's latents to those that it was trained on."""

    def __init__(self, latent_channels: int = 4, device: Any = None) -> None:
        super().__init__()
        self.taesd_encoder = encoder(latent_channels, device)
        self.taesd_decoder = decoder(latent_channels, device)
        self.register_buffer("vae_scale", torch.tensor(1.0, device="cpu"))
        self.register_buffer("vae_shift", torch.tensor(0.0, device="cpu"))

    vae_scale: Tensor
    vae_shift: Tensor

    def encode(self, x: Tensor) -> Tensor:
        return self.taesd_encoder(x * 0.5 + 0.5) / self.vae_scale.to(x) + self.vae_shift.to(x)

    def decode(self, z: Tensor) -> Tensor:
        z = (z - self.vae_shift.to(z)) * self.vae_scale.to(z)
        z = z.contiguous(memory_format=torch.channels_last)
        return self.taesd_decoder(z).sub_(0.5).mul_(2)


def load_decoder(state: Mapping[str, Tensor]) -> nn.Sequential:
    """The decoder alone, from a file of it (`vae_approx/taesd_decoder`): latents to pictures from 0 to 1.

    Raises ValueError where the weights are those of something else.
    """
    if "1.weight" not in state:
        raise ValueError("these are not the weights of a TAESD decoder: there is no 1.weight")
    try:
        return fill(decoder(state["1.weight"].shape[1], device="meta"), state, "the decoder")
    except ValueError as error:
        raise ValueError(f"these are not the weights of a TAESD decoder: {error}") from error
