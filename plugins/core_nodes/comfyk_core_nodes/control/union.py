"""The part of a union ControlNet that tells it which kind of hint it is given (xinsir6/ControlNetPlus, 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comfyk_core_nodes.control.names import UNION_CONTROLNET_TYPES
from comfyk_core_nodes.families.sd.unet import timestep_embedding
from comfyk_core_nodes.vision.residual_attention import attention_blocks, split_in_projections
from comfyk_core_nodes.weights.layers import Linear
from comfyk_core_nodes.weights.state_dict import StateDict, with_prefix

_PARTS = ("task_embedding", "transformer_layes.", "spatial_ch_projs.", "control_add_embedding.")


class TypeEmbedding(nn.Module):
    """Which of `types` kinds are given, to a vector for the timestep's embedding: `[1, E]`."""

    def __init__(self, types: int, width: int, inside: int, device: Any = None) -> None:
        super().__init__()
        self.type_width = inside // types
        self.linear_1 = Linear(inside, width, device=device)
        self.linear_2 = Linear(width, width, device=device)

    def forward(self, given: Tensor, dtype: torch.dtype) -> Tensor:
        places = timestep_embedding(given, self.type_width).flatten().unsqueeze(0).to(dtype)
        return self.linear_2(F.silu(self.linear_1(places)))


class UnionTypes(nn.Module):
    """Built from its own weights. Parameters are named as in the files."""

    def __init__(self, state: Mapping[str, Tensor], device: Any = None) -> None:
        super().__init__()
        types, width = state["task_embedding"].shape
        self.num_control_type = types
        self.task_embedding = nn.Parameter(torch.empty(types, width, device=device), requires_grad=False)
        self.transformer_layes = attention_blocks(state, "transformer_layes", device)
        self.spatial_ch_projs = Linear(width, state["spatial_ch_projs.weight"].shape[0], device=device)
        outside, inside = state["control_add_embedding.linear_1.weight"].shape
        self.control_add_embedding = TypeEmbedding(types, outside, inside, device)

    def embed(self, control_type: Sequence[int], like: Tensor) -> Tensor:
        """The vector `[1, E]` for these kinds. Raises ValueError for one that the file was not trained with."""
        given = torch.zeros(self.num_control_type, device=like.device)
        for number in control_type:
            if number >= self.num_control_type:
                names = {number: name for name, number in UNION_CONTROLNET_TYPES.items()}
                raise ValueError(
                    f"this union ControlNet knows {self.num_control_type} types of hints, "
                    f"and {names.get(number, number)!r} is number {number + 1}: the ProMax version knows it"
                )
            given[number] = 1.0
        return self.control_add_embedding(given, like.dtype)

    def fuse(self, features: Sequence[Tensor], control_type: Sequence[int]) -> Tensor:
        """The features `[B, C, h, w]` of hints of these kinds, each shifted by what the others are, added up."""
        tasks = self.task_embedding.to(features[0])
        tokens = [
            feature.mean(dim=(2, 3)) + tasks[number]
            for feature, number in zip(features, control_type, strict=True)
        ]
        shifts = self.spatial_ch_projs(self.transformer_layes(torch.stack(tokens, dim=1)))
        return torch.stack(
            [feature + shifts[:, index, :, None, None] for index, feature in enumerate(features)]
        ).sum(0)


def union_state(state: Mapping[str, Tensor]) -> StateDict:
    """The weights of the union part of a diffusers ControlNet; empty where it has none."""
    if "task_embedding" not in state:
        return {}
    return split_in_projections({key: value for key, value in state.items() if key.startswith(_PARTS)})


def union_of(state: Mapping[str, Tensor], device: Any = None) -> UnionTypes | None:
    """The union part whose weights are under `union.` in `state`, or None."""
    own = with_prefix(state, "union.")
    return UnionTypes(own, device) if own else None
