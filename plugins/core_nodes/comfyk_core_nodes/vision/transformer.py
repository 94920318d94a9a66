"""The vision transformer of CLIP (Radford et al. 2021, arXiv:2103.00020), and of SigLIP (Zhai et al. 2023, 2303.15343).

Parameters are named as in `transformers`; every size is read from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from comfyk_core_nodes.weights.clip_encoder import Activation, Encoder, EncoderLayer
from comfyk_core_nodes.weights.layers import Conv2d, Embedding, LayerNorm, Linear
from comfyk_core_nodes.weights.state_dict import count_blocks

_DEEPEST_OPENAI = 24
"""Layers of the deepest model that OpenAI trained. They use a quick GELU, and those of OpenCLIP the exact one."""
_HEADS = {768: 12}
"""By width; all others have 16."""


@dataclass(frozen=True, slots=True)
class VisionShape:
    """The numbers of a vision transformer."""

    width: int
    layers: int
    inner: int
    patch_size: int
    channels: int
    positions: int
    projection: int | None
    siglip: bool

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return math.isqrt(self.positions)

    @property
    def image_size(self) -> int:
        """Pixels along one side."""
        return self.grid * self.patch_size

    @property
    def heads(self) -> int:
        return _HEADS.get(self.width, 16)

    @property
    def activation(self) -> Activation:
        if self.siglip:
            return "gelu_tanh"
        return "quick_gelu" if self.layers <= _DEEPEST_OPENAI else "gelu"


def vision_shape(state: Mapping[str, Tensor]) -> VisionShape | None:
    """The numbers of the model in `state`, or None where there is none. Raises KeyError where some are missing."""
    patches = state.get("vision_model.embeddings.patch_embedding.weight")
    if patches is None or patches.ndim != 4:
        return None
    positions = state["vision_model.embeddings.position_embedding.weight"].shape[0]
    siglip = "vision_model.embeddings.class_embedding" not in state
    projection = state.get("visual_projection.weight")
    return VisionShape(
        width=patches.shape[0],
        layers=count_blocks(state, "vision_model.encoder.layers.{}."),
        inner=state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        patch_size=patches.shape[2],
        channels=patches.shape[1],
        positions=positions if siglip else positions - 1,
        projection=None if projection is None else projection.shape[0],
        siglip=siglip,
    )


class VisionEmbeddings(nn.Module):
    """Patches of the picture as tokens, after one that stands for all of it (SigLIP has none)."""

    def __init__(self, shape: VisionShape, device: Any = None) -> None:
        super().__init__()
        self.class_embedding: nn.Parameter | None = None
        if not shape.siglip:
            self.class_embedding = nn.Parameter(torch.empty(shape.width, device=device), requires_grad=False)
        self.patch_embedding = Conv2d(
            shape.channels,
            shape.width,
            shape.patch_size,
            stride=shape.patch_size,
            bias=shape.siglip,
            device=device,
        )
        tokens = shape.positions + (0 if shape.siglip else 1)
        self.position_embedding = Embedding(tokens, shape.width, device=device)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        if self.class_embedding is not None:
            x = torch.cat([self.class_embedding.to(x).expand(x.shape[0], 1, -1), x], dim=1)
        places = torch.arange(x.shape[1], device=x.device)
        return x + self.position_embedding(places, out_dtype=x.dtype)


class VisionTransformer(nn.Module):
    def __init__(self, shape: VisionShape, device: Any = None) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(shape, device)
        # The name is misspelt in the files.
        self.pre_layrnorm = nn.Identity() if shape.siglip else LayerNorm(shape.width, device=device)
        layers = (
            EncoderLayer(shape.width, shape.heads, shape.inner, shape.activation, device=device)
            for _ in range(shape.layers)
        )
        self.encoder = Encoder(list(layers))
        self.post_layernorm = LayerNorm(shape.width, device=device)


class VisionOutput(NamedTuple):
    """The `hidden` state behind each layer, `[B, N, D]`; `last` with SigLIP's norm; `embeds` `[B, P]` of the whole."""

    last: Tensor
    hidden: list[Tensor]
    embeds: Tensor


class VisionModel(nn.Module):
    """The transformer, and the projection into the space shared with text where there is one."""

    def __init__(self, shape: VisionShape, device: Any = None) -> None:
        super().__init__()
        self.siglip = shape.siglip
        self.vision_model = VisionTransformer(shape, device)
        self.visual_projection: nn.Module = nn.Identity()
        if shape.projection is not None:
            self.visual_projection = Linear(shape.width, shape.projection, bias=False, device=device)

    def forward(self, pixels: Tensor) -> VisionOutput:
        """`pixels` `[B, 3, S, S]`, normalised."""
        model = self.vision_model
        x = model.pre_layrnorm(model.embeddings(pixels))
        hidden = []
        for layer in model.encoder.layers:
            x = layer(x)
            hidden.append(x)
        if self.siglip:
            last = model.post_layernorm(x)
            return VisionOutput(last, hidden, self.visual_projection(last))
        return VisionOutput(x, hidden, self.visual_projection(model.post_layernorm(x[:, 0])))
