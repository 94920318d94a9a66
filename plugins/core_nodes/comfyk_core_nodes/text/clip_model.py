"""The CLIP text transformer (Radford et al. 2021, arXiv:2103.00020), for CLIP-L, OpenCLIP-H and OpenCLIP-G.

Parameters are named as in `transformers`; `text_config` reads every size from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from comfyk_core_nodes.weights.clip_encoder import Encoder, EncoderLayer
from comfyk_core_nodes.weights.layers import Embedding, LayerNorm, Linear
from comfyk_core_nodes.weights.state_dict import count_blocks

DIM_HEAD = 64


class CLIPEmbeddings(nn.Module):
    def __init__(self, vocabulary: int, positions: int, width: int, device: Any = None) -> None:
        super().__init__()
        self.token_embedding = Embedding(vocabulary, width, device=device)
        self.position_embedding = Embedding(positions, width, device=device)


class CLIPTextTransformer(nn.Module):
    def __init__(self, embeddings: CLIPEmbeddings, encoder: Encoder, final_layer_norm: LayerNorm) -> None:
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
        activation = "quick_gelu" if quick_gelu else "gelu"
        self.num_layers = layers
        self.width = width
        self.text_model = CLIPTextTransformer(
            CLIPEmbeddings(vocabulary, positions, width, device),
            Encoder([EncoderLayer(width, heads, inner, activation, True, device) for _ in range(layers)]),
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
