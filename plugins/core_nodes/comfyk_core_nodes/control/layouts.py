"""The keys of ControlNets and T2I-Adapters in the files of diffusers, and the original names of the same weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from comfyk_core_nodes.control.union import union_state
from comfyk_core_nodes.families.sd.diffusers_keys import diffusers_unet_to_original
from comfyk_core_nodes.weights.state_dict import StateDict, with_prefix

_UNET_PARTS = (
    "add_embedding.",
    "class_embedding.",
    "conv_in.",
    "down_blocks.",
    "mid_block.",
    "time_embedding.",
)
_HINT = re.compile(r"controlnet_cond_embedding\.(conv_in|conv_out|blocks\.(\d+))\.(weight|bias)")
_ZERO_CONV = re.compile(r"controlnet_down_blocks\.(\d+)\.(weight|bias)")
_MIDDLE = re.compile(r"controlnet_mid_block\.(weight|bias)")
_RESNET = re.compile(r"body\.(\d+)\.resnets\.(\d+)\.(.+)")
_LEVEL = re.compile(r"body\.(\d+)\.(.+)")


def diffusers_controlnet_to_original(state: Mapping[str, Tensor]) -> StateDict | None:
    """A ControlNet of diffusers with the original names, or None where `state` is something else.

    Raises ValueError where it is incomplete in a way that shows here.
    """
    if "controlnet_cond_embedding.conv_in.weight" not in state:
        return None
    out = diffusers_unet_to_original(state)
    if out is None:
        return None
    lost = sum(key.startswith(_UNET_PARTS) for key in state) - len(out)
    if lost > 0:
        raise ValueError(f"there is no place for {lost} weights of the UNet's half")
    blocks = sum(
        key.startswith("controlnet_cond_embedding.blocks.") and key.endswith(".weight") for key in state
    )
    for key, value in state.items():
        if match := _HINT.fullmatch(key):
            place = {"conv_in": 0, "conv_out": blocks + 1}.get(match[1])
            place = int(match[2]) + 1 if place is None else place
            out[f"input_hint_block.{2 * place}.{match[3]}"] = value
        elif match := _ZERO_CONV.fullmatch(key):
            out[f"zero_convs.{match[1]}.0.{match[2]}"] = value
        elif match := _MIDDLE.fullmatch(key):
            out[f"middle_block_out.0.{match[1]}"] = value
    out.update({f"union.{key}": value for key, value in union_state(state).items()})
    return out


def diffusers_adapter_to_original(state: Mapping[str, Tensor]) -> StateDict | None:
    """A T2I-Adapter of diffusers with the original names, or None where `state` is something else."""
    own = with_prefix(state, "adapter.")
    if "body.0.resnets.0.block1.weight" not in own:
        return None
    light = "body.0.out_conv.weight" in own
    count = 1 + max(int(match[2]) for match in map(_RESNET.fullmatch, own) if match)
    out: StateDict = {}
    for key, value in own.items():
        if match := _RESNET.fullmatch(key):
            level, index, rest = int(match[1]), int(match[2]), match[3]
            name = f"body.{level}.body.{index}.{rest}" if light else f"body.{level * count + index}.{rest}"
        elif match := _LEVEL.fullmatch(key):
            name = key if light else f"body.{int(match[1]) * count}.{match[2]}"
        else:
            name = key
        out[name] = value
    return out
