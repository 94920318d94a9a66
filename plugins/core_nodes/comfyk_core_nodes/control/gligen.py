"""GLIGEN (Li et al. 2023, arXiv:2301.07093): texts put into boxes, by attention layers added to the UNet's.

Parameters are named as in the original checkpoints, but for the layers' place in the UNet, which is their number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from comfyk_core_nodes.families.sd.transformer import CrossAttention, FeedForward
from comfyk_core_nodes.memory.managed import managed_in_sampling
from comfyk_core_nodes.weights.build import Path, build, reading
from comfyk_core_nodes.weights.contents import describe
from comfyk_core_nodes.weights.files import ModelFileError, load_torch_file
from comfyk_core_nodes.weights.layers import LayerNorm, Linear
from comfyk_core_nodes.weights.state_dict import StateDict, count_blocks, with_prefix

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher

EXPECTED = "a GLIGEN model for texts in boxes"
MAX_OBJECTS = 30
"""Boxes that the models were trained with; fewer are filled up with empty ones."""

_FUSER = re.compile(r"(?:.*\.)?(input_blocks|middle_block|output_blocks)\.(\d+)\..*fuser\.(.+)")
_ORDER = ("input_blocks", "middle_block", "output_blocks")
_SD1_TEXT = 768
_TEMPERATURE = 100
_SIDES = 4

Box = tuple[Tensor, int, int, int, int]
"""The pooled text `[1, D]`, then height, width, y and x in latent pixels."""


class GatedSelfAttention(nn.Module):
    """Attention among the picture's tokens and the boxes', added to the former by a learned share."""

    def __init__(self, state: Mapping[str, Tensor], device: Any = None) -> None:
        super().__init__()
        width, text_width = state["linear.weight"].shape
        heads = 8 if text_width == _SD1_TEXT else max(1, width // 64)
        self.linear = Linear(text_width, width, device=device)
        self.attn = CrossAttention(width, width, heads, width // heads, device)
        self.ff = FeedForward(width, device)
        self.norm1 = LayerNorm(width, device=device)
        self.norm2 = LayerNorm(width, device=device)
        self.alpha_attn = nn.Parameter(torch.empty((), device=device), requires_grad=False)
        self.alpha_dense = nn.Parameter(torch.empty((), device=device), requires_grad=False)

    def forward(self, x: Tensor, objects: Tensor) -> Tensor:
        """`x` `[B, N, C]` and `objects` `[B, M, D]` to `[B, N, C]`."""
        both = torch.cat([x, self.linear(objects)], dim=1)
        x = x + self.alpha_attn.to(x).tanh() * self.attn(self.norm1(both))[:, : x.shape[1]]
        return x + self.alpha_dense.to(x).tanh() * self.ff(self.norm2(x))


class PositionNet(nn.Module):
    """Boxes and what is in them as tokens: `[B, M, 4]`, `[B, M]`, `[B, M, D]` to `[B, M, D']`."""

    def __init__(self, state: Mapping[str, Tensor], device: Any = None) -> None:
        super().__init__()
        text, place = (state[f"null_{kind}_feature"].shape[0] for kind in ("positive", "position"))
        self.frequencies = place // (2 * _SIDES)
        layers: list[nn.Module] = []
        for number in sorted({int(key.split(".")[1]) for key in state if key.startswith("linears.")}):
            out, width = state[f"linears.{number}.weight"].shape
            layers += [Linear(width, out, device=device), nn.SiLU()]
        self.linears = nn.Sequential(*layers[:-1])
        self.null_positive_feature = nn.Parameter(torch.empty(text, device=device), requires_grad=False)
        self.null_position_feature = nn.Parameter(torch.empty(place, device=device), requires_grad=False)

    def forward(self, boxes: Tensor, masks: Tensor, texts: Tensor) -> Tensor:
        present = masks.unsqueeze(-1)
        texts = texts * present + (1 - present) * self.null_positive_feature.to(texts)
        places = self._places(boxes) * present + (1 - present) * self.null_position_feature.to(boxes)
        return self.linears(torch.cat([texts, places], dim=-1))

    def _places(self, boxes: Tensor) -> Tensor:
        """Sine and cosine of the box's sides at rising frequencies, one after the other: `[B, M, 8 * frequencies]`."""
        exponents = torch.arange(self.frequencies, device=boxes.device) / self.frequencies
        angles = (_TEMPERATURE**exponents)[:, None] * boxes.unsqueeze(-2)
        return torch.stack([angles.sin(), angles.cos()], dim=-2).flatten(-3)


class Gligen(nn.Module):
    """The layers in the order of the UNet's transformers, and the network that makes tokens of boxes."""

    def __init__(self, state: Mapping[str, Tensor], device: Any = None) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(
            GatedSelfAttention(with_prefix(state, f"module_list.{number}."), device)
            for number in range(count_blocks(state, "module_list.{}."))
        )
        self.position_net = PositionNet(with_prefix(state, "position_net."), device)
        self.key_dim = state["position_net.null_positive_feature"].shape[0]
        self.max_objs = MAX_OBJECTS

    def set_position(
        self, latent_image_shape: Sequence[int], position_params: Sequence[Box], device: torch.device
    ) -> Callable[[Tensor, Mapping[str, Any]], Tensor]:
        """The patch (`middle_patch`) that puts these texts into their boxes of a latent `[B, C, H, W]`.

        Raises ValueError for more boxes than the model was trained with.
        """
        if len(position_params) > self.max_objs:
            raise ValueError(f"GLIGEN takes at most {self.max_objs} boxes, not {len(position_params)}")
        height, width = latent_image_shape[-2:]
        boxes = torch.zeros(self.max_objs, _SIDES)
        masks = torch.zeros(self.max_objs)
        texts = torch.zeros(self.max_objs, self.key_dim)
        for number, (text, box_height, box_width, y, x) in enumerate(position_params):
            if text.shape[-1] != self.key_dim:
                raise ValueError(
                    f"this GLIGEN model is for texts of {self.key_dim} channels, not of {text.shape[-1]}: "
                    "it is for another family of models"
                )
            sides = x / width, y / height, (x + box_width) / width, (y + box_height) / height
            boxes[number] = torch.tensor(sides)
            masks[number] = 1.0
            texts[number] = text.reshape(-1)
        batch = latent_image_shape[0]
        boxes, masks, texts = (part.to(device).expand(batch, *part.shape) for part in (boxes, masks, texts))
        objects = self.position_net(boxes, masks, texts)

        def patch(x: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
            return self.module_list[extra_options["transformer_index"]](x, objects.to(x))

        return patch

    def set_empty(
        self, latent_image_shape: Sequence[int], device: torch.device
    ) -> Callable[[Tensor, Mapping[str, Any]], Tensor]:
        """The patch for a conditioning without boxes."""
        return self.set_position(latent_image_shape, (), device)


def load_gligen(path: Path) -> ModelPatcher:
    """The GLIGEN model in a file; `.model` is the `Gligen`. Raises ModelFileError for something else."""
    file, _ = load_torch_file(path)
    state = _by_order(file)
    if not state or "position_net.null_positive_feature" not in state:
        raise ModelFileError(path, EXPECTED, describe(file))
    with reading(path, EXPECTED):
        network = build(lambda: Gligen(state), state, strict=True)
    return managed_in_sampling(network, state)


def _by_order(state: Mapping[str, Tensor]) -> StateDict:
    """GLIGEN's own weights among these, its layers numbered as they come in the UNet."""
    found: dict[tuple[int, int], StateDict] = {}
    out: StateDict = {}
    for key, value in state.items():
        if match := _FUSER.fullmatch(key):
            found.setdefault((_ORDER.index(match[1]), int(match[2])), {})[match[3]] = value
        elif key.startswith("position_net."):
            out[key] = value
    for number, place in enumerate(sorted(found)):
        out.update({f"module_list.{number}.{name}": value for name, value in found[place].items()})
    return out
