"""The text encoder and the UNet, which learn together to take the noise out of latents.

The network predicts v (Salimans and Ho 2022), which tells a small one more about nearly pure noise than the noise
itself does. Its weights are those of an exponential moving average.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from comfyk_core_nodes.text import bpe
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from training.draw import make_up, words
from training.files import load_state, save_state
from training.vae import GROUPS, new_vae, pixels

STEPS = 4000
PICTURES = 40_000
_BATCH = 128
_LEARNING_RATE = 1.5e-3
_EMPTY = 0.1
"""The part of the captions that are left out, for guidance."""
_AVERAGE = 0.998
_WIDTH = 32
START, END, LENGTH = 49406, 49407, 77


class Denoiser(nn.Module):
    """The text encoder and the UNet."""

    def __init__(self) -> None:
        super().__init__()
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=END + 1,
                hidden_size=_WIDTH,
                intermediate_size=4 * _WIDTH,
                num_hidden_layers=2,
                num_attention_heads=1,
                max_position_embeddings=LENGTH,
                hidden_act="quick_gelu",
                initializer_factor=1.0,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 128),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=_WIDTH,
            attention_head_dim=8,
            norm_num_groups=GROUPS,
        ).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Latents `[B, 4, 16, 16]`, timesteps `[B]`, tokens `[B, 77]` to v."""
        return self.unet(x, t, self.text(tokens).last_hidden_state).sample


def tokens_of(text: str) -> list[int]:
    """77 tokens, as Stable Diffusion's text encoder takes them."""
    found = [START, *bpe.encode(text)][: LENGTH - 1]
    return found + [END] * (LENGTH - len(found))


def alphas() -> Tensor:
    """The part of the signal's variance at each of the 1,000 timesteps: Stable Diffusion's schedule."""
    return torch.cumprod(
        1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0
    ).float()


@dataclass(slots=True)
class Latents:
    """Pictures as the UNet sees them."""

    latents: Tensor
    """`[N, 4, 16, 16]`, of variance 1."""
    scale: float
    """What the autoencoder's latents were multiplied with for that."""


@torch.no_grad()
def latents(work: Path, count: int = PICTURES, *, outlined: bool = False) -> Latents:
    """The latents of the first pictures; they are kept in `work`."""
    file = work / f"latents-{count}{'-outlined' if outlined else ''}.pt"
    if not file.exists():
        vae = new_vae()
        vae.load_state_dict(torch.load(work / "vae.pt", weights_only=True)["network"])
        vae.eval()
        parts = []
        for first in range(0, count, 64):
            x = pixels(range(first, min(first + 64, count)), outlined=outlined)
            parts.append(vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean)
        torch.save(torch.cat(parts), file)
    kept = torch.load(file, weights_only=True)
    scale_file = work / "scale.pt"
    if not scale_file.exists():
        torch.save(1 / kept.std(), scale_file)
    scale = float(torch.load(scale_file, weights_only=True))
    return Latents(kept * scale, scale)


def caption(seed: int, wording: Random) -> list[int]:
    """Words for the picture of a seed, each time others."""
    return tokens_of(words(make_up(Random(seed)), wording))


def loss_of(network: nn.Module, x: Tensor, tokens: Tensor, signal: Tensor, random: torch.Generator) -> Tensor:
    """The mean squared error of v, at timesteps of which more are noisy: there it is decided what goes where."""
    t = (torch.rand(len(x), generator=random) ** 0.75 * 1000).long().clamp(max=999)
    alpha = signal[t][:, None, None, None]
    noise = torch.randn(x.shape, generator=random)
    noised = alpha.sqrt() * x + (1 - alpha).sqrt() * noise
    v = alpha.sqrt() * noise - (1 - alpha).sqrt() * x
    return (network(noised.contiguous(memory_format=torch.channels_last), t, tokens) - v).square().mean()


def train(work: Path, steps: int = STEPS) -> None:
    """Train, or go on with what is in `work`."""
    torch.manual_seed(2)
    data = latents(work)
    network = Denoiser()
    average = copy.deepcopy(network).requires_grad_(False)
    table = network.text.get_input_embeddings().weight
    rest = [weight for weight in network.parameters() if weight is not table]
    optimizer = torch.optim.AdamW(
        [{"params": rest, "weight_decay": 1e-2}, {"params": [table], "weight_decay": 0.0}],
        lr=_LEARNING_RATE,
        betas=(0.9, 0.99),
    )
    first = load_state(work / "denoiser.pt", network, optimizer)
    if first:
        average.load_state_dict(torch.load(work / "denoiser.pt", weights_only=True)["average"])
    signal, count = alphas(), len(data.latents)
    empty = tokens_of("")
    began, losses = time.monotonic(), []
    for step in range(first, steps):
        rate = _LEARNING_RATE * min(1.0, (step + 1) / 200, 2.5 * (1.001 - step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        wording, random = Random(step), torch.Generator().manual_seed(step)
        seeds = [wording.randrange(count) for _ in range(_BATCH)]
        said = [empty if wording.random() < _EMPTY else caption(seed, wording) for seed in seeds]
        loss = loss_of(network, data.latents[seeds], torch.tensor(said), signal, random)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        keep = min(_AVERAGE, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, weight in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(weight, 1 - keep)
        losses.append(loss.item())
        if step % 100 == 99 or step + 1 == steps:
            save_state(work / "denoiser.pt", network, optimizer, step + 1, average=average.state_dict())
            pace = (step + 1 - first) / (time.monotonic() - began)
            print(
                f"denoiser {step + 1}/{steps} loss {sum(losses[-100:]) / len(losses[-100:]):.4f}, {pace:.2f} steps/s",
                flush=True,
            )
