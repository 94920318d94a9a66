"""Attention over the tokens of a feature map: the transformer inside the UNets, with the patches that nodes set.

Tokens are `[B, N, C]`. `transformer_options` is the field's dictionary: `patches` (`attn1_patch`, `attn2_patch`,
`attn1_output_patch`, `attn2_output_patch`, `middle_patch`, each a list), `patches_replace` (`attn1`, `attn2`: functions
by `(block, number)` or `(block, number, transformer)`), and what the UNet notes for them: `block`, `block_index`,
`transformer_index`, `original_shape`, `activations_shape`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from comfyk_core_nodes.weights.attention import TransformerOptions, attention
from comfyk_core_nodes.weights.layers import Conv2d, GroupNorm, LayerNorm, Linear


class CrossAttention(nn.Module):
    """Attention from `x` to `context`, or to itself without one."""

    def __init__(self, width: int, context_width: int, heads: int, dim_head: int, device: Any = None) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.dim_head = dim_head
        self.to_q = Linear(width, inner, bias=False, device=device)
        self.to_k = Linear(context_width, inner, bias=False, device=device)
        self.to_v = Linear(context_width, inner, bias=False, device=device)
        self.to_out = nn.Sequential(Linear(inner, width, device=device), nn.Identity())

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        transformer_options: TransformerOptions | None = None,
    ) -> Tensor:
        context = x if context is None else context
        value = context if value is None else value
        out = attention(
            self.to_q(x), self.to_k(context), self.to_v(value), self.heads, mask, transformer_options
        )
        return self.to_out(out)


class GEGLU(nn.Module):
    """A linear layer gated by the GELU of another (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, inner: int, device: Any = None) -> None:
        super().__init__()
        self.proj = Linear(width, inner * 2, device=device)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return F.gelu(gate).mul_(x)


class FeedForward(nn.Module):
    """`[..., C] -> [..., C]` through a layer four times as wide."""

    def __init__(self, width: int, device: Any = None) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(width, width * 4, device), nn.Identity(), Linear(width * 4, width, device=device)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to the text, and a feed-forward layer, each added to its input."""

    def __init__(
        self,
        width: int,
        heads: int,
        dim_head: int,
        context_width: int | None,
        disable_self_attn: bool = False,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.n_heads = heads
        self.d_head = dim_head
        self.disable_self_attn = disable_self_attn
        context_width = width if context_width is None else context_width
        first_width = context_width if disable_self_attn else width
        self.attn1 = CrossAttention(width, first_width, heads, dim_head, device)
        self.ff = FeedForward(width, device)
        self.attn2 = CrossAttention(width, context_width, heads, dim_head, device)
        self.norm1 = LayerNorm(width, device=device)
        self.norm2 = LayerNorm(width, device=device)
        self.norm3 = LayerNorm(width, device=device)

    def forward(
        self, x: Tensor, context: Tensor | None = None, transformer_options: TransformerOptions | None = None
    ) -> Tensor:
        options = {} if transformer_options is None else transformer_options
        patches = options.get("patches", {})
        # What patches are given: all the UNet noted, and the shape of this block.
        extra = {k: v for k, v in options.items() if k not in ("patches", "patches_replace")}
        extra.update(n_heads=self.n_heads, dim_head=self.d_head, attn_precision=None)

        n = self.norm1(x)
        to = context if self.disable_self_attn else None
        n = self._attend("attn1", self.attn1, n, to, n, options, extra)
        x = n + x
        for patch in patches.get("middle_patch", ()):
            x = patch(x, extra)
        n = self.norm2(x)
        n = self._attend("attn2", self.attn2, n, context, context, options, extra)
        x = n + x
        return self.ff(self.norm3(x)) + x

    def _attend(
        self,
        name: str,
        layer: CrossAttention,
        n: Tensor,
        context: Tensor | None,
        default_context: Tensor | None,
        options: TransformerOptions,
        extra: TransformerOptions,
    ) -> Tensor:
        """One attention with its patches; these are given `default_context` where there is none."""
        patches = options.get("patches", {})
        value: Tensor | None = None
        if f"{name}_patch" in patches:
            context = default_context if context is None else context
            value = context
            for patch in patches[f"{name}_patch"]:
                n, context, value = patch(n, context, value, extra)
        replace = _replacement(options, name)
        if replace is None:
            n = layer(n, context=context, value=value, transformer_options=options)
        else:
            context = n if context is None else context
            value = context if value is None else value
            n = layer.to_out(replace(layer.to_q(n), layer.to_k(context), layer.to_v(value), extra))
        for patch in patches.get(f"{name}_output_patch", ()):
            n = patch(n, extra)
        return n


def _replacement(options: TransformerOptions, name: str) -> Callable[..., Tensor] | None:
    """The function that was set in place of this attention: for this transformer, or for its whole block."""
    block = options.get("block")
    by_block = options.get("patches_replace", {}).get(name)
    if not by_block or block is None:
        return None
    one = by_block.get((block[0], block[1], options.get("block_index", 0)))
    return one if one is not None else by_block.get(block)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of `[B, C, H, W]` (Rombach et al. 2021, arXiv:2112.10752)."""

    def __init__(
        self,
        channels: int,
        heads: int,
        dim_head: int,
        depth: int,
        context_width: int | None,
        use_linear: bool,
        disable_self_attn: bool = False,
        device: Any = None,
    ) -> None:
        super().__init__()
        inner = heads * dim_head
        self.use_linear = use_linear
        self.norm = GroupNorm(32, channels, eps=1e-6, device=device)
        self.proj_in = _projection(channels, inner, use_linear, device)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(inner, heads, dim_head, context_width, disable_self_attn, device)
            for _ in range(depth)
        )
        self.proj_out = _projection(inner, channels, use_linear, device)

    def forward(
        self,
        x: Tensor,
        context: Tensor | list[Tensor] | None = None,
        transformer_options: TransformerOptions | None = None,
    ) -> Tensor:
        """`context` is `[B, T, D]`, or one of them for each transformer block."""
        options = {} if transformer_options is None else transformer_options
        options["activations_shape"] = list(x.shape)
        _, _, height, width = x.shape
        h = self.norm(x)
        if not self.use_linear:
            h = self.proj_in(h)
        h = h.movedim(1, 3).flatten(1, 2)
        if self.use_linear:
            h = self.proj_in(h)
        for index, block in enumerate(self.transformer_blocks):
            options["block_index"] = index
            own_context = context[index] if isinstance(context, list) else context
            h = block(h, own_context, options)
        if self.use_linear:
            h = self.proj_out(h)
        h = h.unflatten(1, (height, width)).movedim(3, 1)
        if not self.use_linear:
            h = self.proj_out(h)
        return cast(Tensor, h + x)


def _projection(width_in: int, width_out: int, linear: bool, device: Any) -> nn.Module:
    if linear:
        return Linear(width_in, width_out, device=device)
    return Conv2d(width_in, width_out, 1, device=device)
