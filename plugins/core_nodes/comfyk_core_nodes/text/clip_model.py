"""The CLIP text transformer (Radford et al. 2021, arXiv:2103.00020), for CLIP-L, OpenCLIP-H and OpenCLIP-G.

Parameters are named as in `transformers`; `text_config` reads every size from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comfyk_core_nodes.weights.attention import dot_product_attention
from comfyk_core_nodes.weights.layers import Embedding, LayerNorm, Linear
from comfyk_core_nodes.weights.state_dict import count_blocks

DIM_HEAD = 64


class CLIPAttention(nn.Module):
    def __init__(self, width: int, heads: int, device: Any = None) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = Linear(width, width, device=device)
        self.k_proj = Linear(width, width, device=device)
        self.v_proj = Linear(width, width, device=device)
        self.out_proj = Linear(width, width, device=device)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = dot_product_attention(q, k, v, causal=True)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class CLIPMLP(nn.Module):
    def __init__(self, width: int, inner: int, quick_gelu: bool, device: Any = None) -> None:
        super().__init__()
        self.quick_gelu = quick_gelu
        self.fc1 = Linear(width, inner, device=device)
        self.fc2 = Linear(inner, width, device=device)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x) if self.quick_gelu else F.gelu(x))


class CLIPLayer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, quick_gelu: bool, device: Any = None) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(width, device=device)
        self.self_attn = CLIPAttention(width, heads, device)
        self.layer_norm2 = LayerNorm(width, device=device)
        self.mlp = CLIPMLP(width, inner, quick_gelu, device)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPEmbeddings(nn.Module):
    def __init__(self, vocabulary: int, positions: int, width: int, device: Any = None) -> None:
        super().__init__()
        self.token_embedding = Embedding(vocabulary, width, device=device)
        self.position_embedding = Embedding(positions, width, device=device)


class CLIPEncoder(nn.Module):
    def __init__(self, layers: list[CLIPLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class CLIPTextTransformer(nn.Module):
    def __init__(self, embeddings: CLIPEmbeddings, encoder: CLIPEncoder, final_layer_norm: LayerNorm) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.encoder = encoder
        self.final_layer_norm = final_layer_norm


class TextOutput(NamedTuple):
    """`last` `[B, T, D]` behind the final norm, the `hidden` state of the layer asked for (without the norm), and
    `pooled` `[B, D]`: what `last` has where the text ends."""

    last: Tensor
    hidden: Tensor | None
    pooled: Tensor


class CLIPTextModel(nn.Module):
    """The transformer, and the projection of its pooled output where there is one."""

    def __init__(
        self,
        vocabulary: int,
        positions: int,
        width: int,
        layers: int,
        inner: int,
        projection: int | None,
        quick_gelu: bool,
        device: Any = None,
    ) -> None:
        super().__init__()
        heads = max(1, width // DIM_HEAD)
        self.num_layers = layers
        self.width = width
        self.text_model = CLIPTextTransformer(
            CLIPEmbeddings(vocabulary, positions, width, device),
            CLIPEncoder([CLIPLayer(width, heads, inner, quick_gelu, device) for _ in range(layers)]),
            LayerNorm(width, device=device),
        )
        if projection is not None:
            self.text_projection = Linear(width, projection, bias=False, device=device)

    def get_input_embeddings(self) -> Embedding:
        return self.text_model.embeddings.token_embedding

    def forward(self, embeds: Tensor, ends: Tensor, hidden_layer: int | None = None) -> TextOutput:
        """`embeds` `[B, T, D]` are the tokens' vectors, `ends` `[B]` where each text ends.

        `hidden_layer` counts from 0, or from the last with -1.
        """
        model = self.text_model
        places = torch.arange(embeds.shape[1], device=embeds.device)
        x = embeds + model.embeddings.position_embedding(places, out_dtype=embeds.dtype)
        hidden = None
        wanted = None if hidden_layer is None else hidden_layer % self.num_layers
        for number, layer in enumerate(model.encoder.layers):
            x = layer(x)
            if number == wanted:
                hidden = x
        last = model.final_layer_norm(x)
        return TextOutput(last, hidden, last[torch.arange(len(ends), device=last.device), ends])

    def project(self, pooled: Tensor) -> Tensor:
        """The pooled output in the space shared with pictures; as it is where the model has no projection."""
        return self.text_projection(pooled) if hasattr(self, "text_projection") else pooled


def text_config(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The sizes of a text model (arguments of `CLIPTextModel` but `quick_gelu`), or None where there is none."""
    tokens = state.get("text_model.embeddings.token_embedding.weight")
    positions = state.get("text_model.embeddings.position_embedding.weight")
    inner = state.get("text_model.encoder.layers.0.mlp.fc1.weight")
    if tokens is None or positions is None or inner is None:
        return None
    projection = state.get("text_projection.weight")
    return {
        "vocabulary": tokens.shape[0],
        "positions": positions.shape[0],
        "width": tokens.shape[1],
        "layers": count_blocks(state, "text_model.encoder.layers.{}."),
        "inner": inner.shape[0],
        "projection": None if projection is None else projection.shape[0],
    }
