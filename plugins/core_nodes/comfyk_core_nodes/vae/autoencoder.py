"""The KL autoencoder of Stable Diffusion (Rombach et al. 2021, arXiv:2112.10752): pictures to latents and back.

Pictures are `[B, 3, H, W]` from -1 to 1, latents `[B, z, H/8, W/8]` for four levels. Parameters are named as in the
original checkpoints; `autoencoder_config` reads every size from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from comfyk import check_interrupted
from torch import Tensor, nn

from comfyk_core_nodes.weights.attention import dot_product_attention
from comfyk_core_nodes.weights.layers import Conv2d, GroupNorm
from comfyk_core_nodes.weights.state_dict import count_blocks


class ResnetBlock(nn.Module):
    """`[B, C, H, W] -> [B, C', H, W]`."""

    def __init__(self, channels: int, out_channels: int, device: Any = None) -> None:
        super().__init__()
        self.norm1 = GroupNorm(32, channels, eps=1e-6, device=device)
        self.conv1 = Conv2d(channels, out_channels, 3, padding=1, device=device)
        self.norm2 = GroupNorm(32, out_channels, eps=1e-6, device=device)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1, device=device)
        if channels != out_channels:
            self.nin_shortcut = Conv2d(channels, out_channels, 1, device=device)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h.add_(self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """Attention of one head over all pixels."""

    def __init__(self, channels: int, device: Any = None) -> None:
        super().__init__()
        self.norm = GroupNorm(32, channels, eps=1e-6, device=device)
        self.q = Conv2d(channels, channels, 1, device=device)
        self.k = Conv2d(channels, channels, 1, device=device)
        self.v = Conv2d(channels, channels, 1, device=device)
        self.proj_out = Conv2d(channels, channels, 1, device=device)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2).unsqueeze(1) for layer in (self.q, self.k, self.v))
        h = dot_product_attention(q, k, v).squeeze(1).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Half the size, padded at the right and the bottom only."""

    def __init__(self, channels: int, device: Any = None) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size."""

    def __init__(self, channels: int, device: Any = None) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """The blocks at the lowest resolution."""

    def __init__(self, channels: int, device: Any = None) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, device)
        self.attn_1 = AttnBlock(channels, device)
        self.block_2 = ResnetBlock(channels, channels, device)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """The blocks of one resolution, and the step to the next."""

    def __init__(self, blocks: list[nn.Module], step: tuple[str, nn.Module] | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self._step = None if step is None else step[0]
        if step is not None:
            self.add_module(*step)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x if self._step is None else getattr(self, self._step)(x)


class Encoder(nn.Module):
    """`[B, C, H, W]` to the mean and the logarithm of the variance of its latent, `[B, 2z, H/8, W/8]`.

    This and the decoder raise `comfyk.context.Interrupted` between two levels when the job was asked to stop.
    """

    def __init__(
        self, in_channels: int, ch: int, ch_mult: list[int], num_res_blocks: int, out: int, device: Any = None
    ) -> None:
        super().__init__()
        self.conv_in = Conv2d(in_channels, ch, 3, padding=1, device=device)
        levels, channels = [], ch
        for number, mult in enumerate(ch_mult):
            blocks: list[nn.Module] = []
            for _ in range(num_res_blocks):
                blocks.append(ResnetBlock(channels, ch * mult, device))
                channels = ch * mult
            last = number == len(ch_mult) - 1
            levels.append(Level(blocks, None if last else ("downsample", Downsample(channels, device))))
        self.down = nn.ModuleList(levels)
        self.mid = Middle(channels, device)
        self.norm_out = GroupNorm(32, channels, eps=1e-6, device=device)
        self.conv_out = Conv2d(channels, out, 3, padding=1, device=device)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        for level in self.down:
            check_interrupted()
            h = level(h)
        h = self.mid(h)
        return self.conv_out(F.silu(self.norm_out(h), inplace=True))


class Decoder(nn.Module):
    """`[B, z, H/8, W/8] -> [B, C, H, W]`."""

    def __init__(
        self, z_channels: int, ch: int, ch_mult: list[int], num_res_blocks: int, out: int, device: Any = None
    ) -> None:
        super().__init__()
        channels = ch * ch_mult[-1]
        self.conv_in = Conv2d(z_channels, channels, 3, padding=1, device=device)
        self.mid = Middle(channels, device)
        levels: list[nn.Module] = []
        for number, mult in reversed(list(enumerate(ch_mult))):
            blocks: list[nn.Module] = []
            for _ in range(num_res_blocks + 1):
                blocks.append(ResnetBlock(channels, ch * mult, device))
                channels = ch * mult
            levels.insert(0, Level(blocks, ("upsample", Upsample(channels, device)) if number else None))
        self.up = nn.ModuleList(levels)
        self.norm_out = GroupNorm(32, channels, eps=1e-6, device=device)
        self.conv_out = Conv2d(channels, out, 3, padding=1, device=device)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z.contiguous(memory_format=torch.channels_last)))
        for level in reversed(self.up):
            check_interrupted()
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h), inplace=True))


class AutoencoderKL(nn.Module):
    """Encoder and decoder; `encode` gives the mean of the latent, which is what a sampler starts from."""

    def __init__(
        self,
        encoder: dict[str, Any],
        decoder: dict[str, Any],
        embed_dim: int | None,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(**encoder, device=device)
        self.decoder = Decoder(**decoder, device=device)
        self.embed_dim = embed_dim
        if embed_dim is not None:
            self.quant_conv = Conv2d(encoder["out"], 2 * embed_dim, 1, device=device)
            self.post_quant_conv = Conv2d(embed_dim, decoder["z_channels"], 1, device=device)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of the latent of `x`."""
        h = self.encoder(x)
        if self.embed_dim is not None:
            h = self.quant_conv(h)
        mean, log_variance = h.chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))

    def encode(self, x: Tensor) -> Tensor:
        return self.moments(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        if self.embed_dim is not None:
            z = self.post_quant_conv(z)
        return self.decoder(z)


def autoencoder_config(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The arguments of `AutoencoderKL` for these weights, or None where they are of something else."""
    if "encoder.conv_in.weight" not in state or "decoder.mid.attn_1.q.weight" not in state:
        return None
    conv_in = state["encoder.conv_in.weight"]
    decoder_in = state["decoder.conv_in.weight"]
    if conv_in.ndim != 4 or "decoder.norm_out.weight" not in state:
        return None
    mults = _widths(state, "encoder.down.{}", conv_in.shape[0])
    decoder_ch = state["decoder.norm_out.weight"].shape[0]
    embed = state.get("post_quant_conv.weight")
    return {
        "encoder": {
            "in_channels": conv_in.shape[1],
            "ch": conv_in.shape[0],
            "ch_mult": mults,
            "num_res_blocks": count_blocks(state, "encoder.down.0.block.{}"),
            "out": state["encoder.conv_out.weight"].shape[0],
        },
        "decoder": {
            "z_channels": decoder_in.shape[1],
            "ch": decoder_ch,
            "ch_mult": _widths(state, "decoder.up.{}", decoder_ch),
            "num_res_blocks": count_blocks(state, "decoder.up.0.block.{}") - 1,
            "out": state["decoder.conv_out.weight"].shape[0],
        },
        "embed_dim": None if embed is None else embed.shape[1],
    }


def _widths(state: Mapping[str, Tensor], level: str, unit: int) -> list[int]:
    """The channels of each level in units of the first one."""
    names = (level.format(number) for number in range(count_blocks(state, level + ".")))
    return [state[f"{name}.block.0.conv1.weight"].shape[0] // unit for name in names]
