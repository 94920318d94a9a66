"""The transformer that CLIP's text models and vision models share (Radford et al. 2021, arXiv:2103.00020).

Parameters are named as in `transformers`; `openclip_layer` gives the names of OpenCLIP.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comfyk_core_nodes.weights.attention import dot_product_attention
from comfyk_core_nodes.weights.layers import LayerNorm, Linear
from comfyk_core_nodes.weights.state_dict import StateDict

Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]


class EncoderAttention(nn.Module):
    """Self-attention, `[B, N, C] -> [B, N, C]`; where it is `causal` a token sees itself and those before it."""

    def __init__(self, width: int, heads: int, causal: bool = False, device: Any = None) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.q_proj = Linear(width, width, device=device)
        self.k_proj = Linear(width, width, device=device)
        self.v_proj = Linear(width, width, device=device)
        self.out_proj = Linear(width, width, device=device)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = dot_product_attention(q, k, v, causal=self.causal)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class EncoderMLP(nn.Module):
    """`[..., C] -> [..., C]` through a wider layer."""

    def __init__(self, width: int, inner: int, activation: Activation, device: Any = None) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = Linear(width, inner, device=device)
        self.fc2 = Linear(inner, width, device=device)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.activation == "quick_gelu":
            return self.fc2(x * torch.sigmoid(1.702 * x))
        return self.fc2(F.gelu(x, approximate="tanh" if self.activation == "gelu_tanh" else "none"))


class EncoderLayer(nn.Module):
    """Attention and a feed-forward layer, each added to its input: `[B, N, C] -> [B, N, C]`."""

    def __init__(
        self,
        width: int,
        heads: int,
        inner: int,
        activation: Activation,
        causal: bool = False,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(width, device=device)
        self.self_attn = EncoderAttention(width, heads, causal, device)
        self.layer_norm2 = LayerNorm(width, device=device)
        self.mlp = EncoderMLP(width, inner, activation, device)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The layers, to be called one after the other."""

    def __init__(self, layers: list[EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


_OPENCLIP_LAYERS = "transformer.resblocks."
_OPENCLIP = (
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    (".attn.out_proj.", ".self_attn.out_proj."),
)
_IN_PROJECTION = re.compile(r"(.+)\.attn\.in_proj_(weight|bias)")


def openclip_layer(key: str, value: Tensor, prefix: str) -> StateDict | None:
    """The weights that a key of OpenCLIP's layers holds, named as here behind `prefix`; None for another key.

    Queries, keys and values are in one tensor there: they become views of it.
    """
    if not key.startswith(_OPENCLIP_LAYERS):
        return None
    name = f"{prefix}encoder.layers.{key.removeprefix(_OPENCLIP_LAYERS)}"
    for theirs, ours in _OPENCLIP:
        name = name.replace(theirs, ours)
    joint = _IN_PROJECTION.fullmatch(name)
    if joint is None:
        return {name: value}
    parts = zip("qkv", value.chunk(3), strict=True)
    return {f"{joint[1]}.self_attn.{part}_proj.{joint[2]}": tensor for part, tensor in parts}
