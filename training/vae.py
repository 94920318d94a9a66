"""The autoencoder: pictures of 128x128 to latents `[4, 16, 16]` and back.

The loss is the mean absolute error of pixels and of their differences to the neighbours (edges), and a little of the
Kullback-Leibler divergence that keeps the latents near a normal distribution (Kingma and Welling 2013).

Stable Diffusion's layers are normalized in 32 groups of at least four channels. These layers are narrower and keep
the four: with a channel to a group all that is flat in a picture, its colours above all, would be normalized away.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from training.draw import make_up, paint
from training.files import load_state, save_state

STEPS = 3000
GROUPS = 8
_BATCH = 8
_LEARNING_RATE = 5e-4
_EDGES, _DIVERGENCE = 0.5, 1e-4
_LEVELS = 4
_ANCHOR = 2.0


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * _LEVELS,
        up_block_types=("UpDecoderBlock2D",) * _LEVELS,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=GROUPS,
    )


@torch.no_grad()
def start_from_means(vae: AutoencoderKL) -> None:
    """Let the network begin as one that keeps the mean colour of each 8x8 pixels, so that it has the edges to learn.

    What goes past the residual blocks is carried in fours: a colour, its negative, a constant and its negative. The
    mean of such a group is 0, its deviation is about that of the constant, and `silu(x) - silu(-x)` is `x`: so what is
    normalized and activated at the end of each half is the colour still.
    """
    for name, layer in vae.named_modules():
        if name.endswith((".conv2", ".to_out.0")):
            layer.weight.mul_(0.1)
            layer.bias.zero_()
    encoder, decoder = vae.encoder, vae.decoder
    _spread(encoder.conv_in, inputs=3)
    _spread(decoder.conv_in, inputs=4)
    for level in range(_LEVELS - 1):
        _keep(encoder.down_blocks[level].downsamplers[0].conv, [(y, x) for y in (0, 1) for x in (0, 1)])
        _keep(decoder.up_blocks[level].upsamplers[0].conv, [(1, 1)])
    for half in (encoder, decoder):
        for name, layer in half.named_modules():
            if name.endswith("conv_shortcut"):
                _keep(layer, [(0, 0)])
    _gather(encoder.conv_out, lambda four: four % 8 % 3)
    _gather(decoder.conv_out, lambda four: four % 4)
    for layer in (vae.quant_conv, vae.post_quant_conv):
        layer.weight.copy_(torch.eye(layer.out_channels)[:, :, None, None])
        layer.bias.zero_()
    vae.quant_conv.bias[4:] = -4.0


def _noise(layer: torch.nn.Conv2d) -> None:
    layer.weight.normal_(std=0.1 / (layer.in_channels * layer.kernel_size[0] ** 2) ** 0.5)
    layer.bias.zero_()


def _spread(layer: torch.nn.Conv2d, inputs: int) -> None:
    """From each input to fours of channels."""
    _noise(layer)
    for first in range(0, layer.out_channels, 4):
        source = first // 4 % inputs
        layer.weight[first, source, 1, 1] += 1
        layer.weight[first + 1, source, 1, 1] -= 1
        layer.bias[first + 2], layer.bias[first + 3] = _ANCHOR, -_ANCHOR


def _keep(layer: torch.nn.Conv2d, taps: list[tuple[int, int]]) -> None:
    """From each channel to that of the same number, counted in fours of the same input, by the mean of some taps."""
    _noise(layer)
    for out in range(layer.out_channels):
        for y, x in taps:
            layer.weight[out, out % layer.in_channels, y, x] += 1 / len(taps)


def _gather(layer: torch.nn.Conv2d, colour_of: Callable[[int], int]) -> None:
    """From fours of channels to the three colours."""
    _noise(layer)
    for out in range(3):
        fours = [first for first in range(0, layer.in_channels, 4) if colour_of(first // 4) == out]
        for first in fours:
            layer.weight[out, first, 1, 1] += _ANCHOR / 2**0.5 / len(fours)
            layer.weight[out, first + 1, 1, 1] -= _ANCHOR / 2**0.5 / len(fours)


def pixels(seeds: range, *, outlined: bool = False) -> Tensor:
    """The pictures of these seeds, `[N, 3, 128, 128]` from -1 to 1."""
    pictures = []
    for seed in seeds:
        random = Random(seed)
        pictures.append(torch.from_numpy(paint(make_up(random), random, outlined=outlined).copy()))
    return torch.stack(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _cut_out(x: Tensor, random: torch.Generator) -> Tensor:
    """A quarter of each picture, at the places of latent pixels: what is learned is local."""
    parts = []
    for picture in x:
        top, left = (int(torch.randint(0, 9, (), generator=random)) * 8 for _ in range(2))
        parts.append(picture[:, top : top + 64, left : left + 64])
    return torch.stack(parts)


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :, 1:] - x[:, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1]


def train(work: Path, steps: int = STEPS) -> None:
    """Train, or go on with what is in `work`."""
    torch.manual_seed(1)
    vae = new_vae()
    start_from_means(vae)
    vae = vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=_LEARNING_RATE, weight_decay=1e-4)
    first = load_state(work / "vae.pt", vae, optimizer)
    began = time.monotonic()
    for step in range(first, steps):
        rate = _LEARNING_RATE * min(1.0, (step + 1) / 50, 1.02 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        # Some have the rims that the LoRA draws: the autoencoder has to know them.
        x = torch.cat(
            [
                pixels(range(step * _BATCH, step * _BATCH + _BATCH - 1)),
                pixels(range(step * _BATCH + _BATCH - 1, (step + 1) * _BATCH), outlined=True),
            ]
        )
        x = _cut_out(x, torch.Generator().manual_seed(step)).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(x).latent_dist
        out = vae.decode(posterior.sample()).sample
        error = F.l1_loss(out, x)
        edges = sum((a - b).abs().mean() for a, b in zip(_edges(out), _edges(x), strict=True))
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        loss = error + _EDGES * edges + _DIVERGENCE * divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 25 == 24 or step + 1 == steps:
            save_state(work / "vae.pt", vae, optimizer, step + 1)
            pace = (step + 1 - first) / (time.monotonic() - began)
            print(
                f"vae {step + 1}/{steps} l1 {error.item():.4f} kl {divergence.item():.3f}, {pace:.2f} steps/s",
                flush=True,
            )
