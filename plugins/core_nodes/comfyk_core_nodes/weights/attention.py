"""Attention: `softmax(q k^T) v`, by torch's own kernels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from comfyk_core_nodes.weights.dtypes import should_upcast_attention

TransformerOptions = dict[str, Any]


def dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """torch's attention, in fp32 where the settings or the device ask for it.

    `q` is `[..., N, D]`, as the result is, also in its dtype; `k` and `v` are `[..., M, D]`.
    `causal` lets each token see itself and those before it.
    """
    dtype = q.dtype
    if dtype.itemsize < 4 and should_upcast_attention(q.device):
        q, k, v = q.float(), k.float(), v.float()
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.float()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal).to(dtype)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    transformer_options: TransformerOptions | None = None,
) -> Tensor:
    """Attention of `heads` heads (Vaswani et al. 2017, arXiv:1706.03762): `[B, N, C]`, `[B, M, C]` to `[B, N, C]`.

    `mask` is added to the scores, or masks them where it is boolean and False: `[N, M]`, `[B, N, M]` or
    `[B, heads, N, M]`. An `optimized_attention_override` in `transformer_options` is called in place of this
    function, with this function as its first argument.
    """
    override = (transformer_options or {}).get("optimized_attention_override")
    if override is not None:
        return override(attention, q, k, v, heads, mask=mask)
    batch, _, width = q.shape
    q, k, v = (part.view(batch, -1, heads, width // heads).transpose(1, 2) for part in (q, k, v))
    if mask is not None and mask.ndim == 3:
        mask = mask.unsqueeze(1)
    out = dot_product_attention(q, k, v, mask)
    return out.transpose(1, 2).reshape(batch, -1, width)
