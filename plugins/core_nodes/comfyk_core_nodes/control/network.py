"""The ControlNet (Zhang et al. 2023, arXiv:2302.05543): the way down of a UNet, fed with a picture as well.

Parameters are named as in the original files (those of the union part are under `union.`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from comfyk_core_nodes.control.union import union_of
from comfyk_core_nodes.families.registry import describe_prompt
from comfyk_core_nodes.families.sd.detection import unet_config
from comfyk_core_nodes.families.sd.unet import (
    Control,
    UNetShape,
    embedding_layers,
    encoder_blocks,
    middle_block,
    timestep_embedding,
)
from comfyk_core_nodes.weights.layers import Conv2d

HINT_BLOCK = "input_hint_block"


class ControlNetModel(nn.Module):
    """The network for the weights in `state`, without them. Raises ValueError or KeyError where some are missing."""

    def __init__(self, state: Mapping[str, Tensor], config: Mapping[str, Any], device: Any = None) -> None:
        super().__init__()
        shape = UNetShape(**config)
        self.dtype = torch.float32
        """The dtype of the stored weights; the loader sets it."""
        self.in_channels = shape.in_channels
        self.model_channels = shape.model_channels
        self.context_dim = shape.context_dim
        self.num_classes = shape.num_classes
        self.adm_in_channels = shape.adm_in_channels
        self.for_sd1 = (
            shape.num_classes is None
            and shape.context_dim is not None
            and not shape.use_linear_in_transformer
        )
        """SD 1.x takes no vector; of SD 2.x, whose attention is entered by linear layers, unCLIP does."""
        self.time_embed, label = embedding_layers(shape, device)
        if label is not None:
            self.label_emb = label
        self.input_blocks, widths = encoder_blocks(shape, device)
        self.zero_convs = nn.ModuleList(_zero_conv(width, device) for width in widths)
        middle = middle_block(shape, widths[-1], device)
        if middle is None:
            raise ValueError("the block in the middle is missing")
        self.middle_block = middle
        self.middle_block_out = _zero_conv(widths[-1], device)
        hint_widths = _hint_widths(state)
        self.input_hint_block = _hint_block(hint_widths, device)
        self.hint_channels = hint_widths[0]
        self.compression_ratio = 2 ** sum(_halves(index) for index in range(len(hint_widths) - 1))
        self.union = union_of(state, device)

    def forward(
        self,
        x: Tensor,
        hint: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control_type: Sequence[int] = (),
    ) -> Control:
        """The residuals for a UNet that is given the same `x` `[B, C, h, w]`, `timesteps`, `context` and `y`.

        `hint` is `[1 or B, C', H, W]`; for a union ControlNet with several types one for each, `[N, B, C', H, W]`.
        Raises ValueError for a context or vector of another family of models.
        """
        self._check_family(context, y)
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(x.dtype))
        if self.union is not None:
            emb = emb + self.union.embed(control_type, emb)
        if self.num_classes is not None:
            emb = emb + self.label_emb(y)
        guided = self._embed_hint(hint, control_type)

        residuals: list[Tensor | None] = []
        h = x.contiguous(memory_format=torch.channels_last)
        for number, (block, zero_conv) in enumerate(zip(self.input_blocks, self.zero_convs, strict=True)):
            h = block(h, emb, context)
            if number == 0:
                h = h + guided
            residuals.append(zero_conv(h))
        h = self.middle_block(h, emb, context)
        return {"input": [], "middle": [self.middle_block_out(h)], "output": residuals}

    def _check_family(self, context: Tensor | None, y: Tensor | None) -> None:
        advice = "they are of different families; take a ControlNet of the model's family"
        if context is not None and self.context_dim is not None and context.shape[-1] != self.context_dim:
            raise ValueError(
                f"this ControlNet is for models whose text has {describe_prompt(self.context_dim)}; "
                f"this model's has {describe_prompt(context.shape[-1])}: {advice}"
            )
        if self.num_classes is not None and y is None:
            raise ValueError(
                f"this ControlNet is for SDXL, and the model takes no vector as SDXL does: {advice}"
            )
        if y is None or y.ndim < 2:
            return
        if self.for_sd1:
            raise ValueError(
                f"this ControlNet is for SD 1.x, and the model takes a vector of {y.shape[-1]} numbers, as SDXL "
                f"and its refiner do: {advice}"
            )
        if self.num_classes is not None and self.adm_in_channels not in (None, y.shape[-1]):
            raise ValueError(
                f"this ControlNet is for models with a vector of {self.adm_in_channels} numbers; "
                f"this model's has {y.shape[-1]}: {advice}"
            )

    def _embed_hint(self, hint: Tensor, control_type: Sequence[int]) -> Tensor:
        if self.union is None or not control_type:
            return self.input_hint_block(hint)
        hints = hint if hint.ndim == 5 else hint.unsqueeze(0)
        return self.union.fuse([self.input_hint_block(one) for one in hints], control_type)


def _zero_conv(channels: int, device: Any) -> nn.Sequential:
    return nn.Sequential(Conv2d(channels, channels, 1, device=device))


def _halves(index: int) -> bool:
    """Whether this convolution of the hint's halves its size: every second one but the first."""
    return index > 0 and index % 2 == 0


def _hint_block(widths: Sequence[int], device: Any) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths)):
        stride = 2 if _halves(index) else 1
        layers += [Conv2d(before, after, 3, stride=stride, padding=1, device=device), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def _hint_widths(state: Mapping[str, Tensor]) -> list[int]:
    """The channels of the hint before each convolution, and behind the last."""
    widths = [state[f"{HINT_BLOCK}.0.weight"].shape[1]]
    while (weight := state.get(f"{HINT_BLOCK}.{2 * (len(widths) - 1)}.weight")) is not None:
        widths.append(weight.shape[0])
    return widths


def controlnet_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The numbers of the UNet that a ControlNet is half of, from its own weights. Raises ValueError or KeyError."""
    config = unet_config(state)
    if config is None:
        raise ValueError("there are no input_blocks in it")
    entry = state.get("middle_block.1.proj_in.weight")
    if config["context_dim"] is None and entry is not None and entry.ndim == 2:
        # The small ones for SDXL have no attention to the text, by which a UNet is told.
        config.update(use_linear_in_transformer=True, num_heads=-1, num_head_channels=64)
    return config
