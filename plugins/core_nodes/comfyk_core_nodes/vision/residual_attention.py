"""The transformer block of OpenAI's CLIP (Radford et al. 2021, arXiv:2103.00020), as adapters are built of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from comfyk_core_nodes.weights.attention import dot_product_attention
from comfyk_core_nodes.weights.layers import LayerNorm, Linear
from comfyk_core_nodes.weights.state_dict import StateDict, count_blocks


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class JointAttention(nn.Module):
    """Self-attention whose queries, keys and values come from one layer: `[B, N, C] -> [B, N, C]`."""

    def __init__(self, width: int, heads: int, device: Any = None) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = Linear(width, width * 3, device=device)
        self.out_proj = Linear(width, width, device=device)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.in_proj(x).chunk(3, dim=-1)
        )
        return self.out_proj(dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ResidualAttentionBlock(nn.Module):
    """Attention and a feed-forward layer, each added to its input: `[B, N, C] -> [B, N, C]`."""

    def __init__(self, width: int, heads: int, inner: int, device: Any = None) -> None:
        super().__init__()
        self.attn = JointAttention(width, heads, device)
        self.ln_1 = LayerNorm(width, device=device)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=Linear(width, inner, device=device),
                gelu=QuickGELU(),
                c_proj=Linear(inner, width, device=device),
            )
        )
        self.ln_2 = LayerNorm(width, device=device)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


HEADS = 8
"""Heads of every adapter that is known; no weight says how many there are."""


def attention_blocks(state: Mapping[str, Tensor], prefix: str, device: Any = None) -> nn.Sequential:
    """The blocks that `state` has as `{prefix}.0`, `{prefix}.1` ... Raises KeyError where one is incomplete."""
    blocks = []
    for number in range(count_blocks(state, f"{prefix}." + "{}.")):
        inner, width = state[f"{prefix}.{number}.mlp.c_fc.weight"].shape
        blocks.append(ResidualAttentionBlock(width, HEADS, inner, device))
    return nn.Sequential(*blocks)


def split_in_projections(state: Mapping[str, Tensor]) -> StateDict:
    """The names of torch's own attention (`in_proj_weight`) as those of a layer (`in_proj.weight`)."""
    return {key.replace(".attn.in_proj_", ".attn.in_proj."): value for key, value in state.items()}
