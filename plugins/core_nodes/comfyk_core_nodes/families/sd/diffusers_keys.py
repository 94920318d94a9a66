"""The keys of diffusers' UNets: `unet_keys` maps them to the original names for a UNet of given numbers.

LoRA files and ControlNets of diffusers use the same names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from comfyk_core_nodes.weights.state_dict import StateDict, count_blocks

_RESNET = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
_ATTENTION = ("norm", "proj_in", "proj_out")
_TRANSFORMER = (
    *(f"attn{n}.to_{part}" for n in (1, 2) for part in ("q", "k", "v", "out.0")),
    *(f"norm{n}" for n in (1, 2, 3)),
    "ff.net.0.proj",
    "ff.net.2",
)
_BASIC = (
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("label_emb.0.0", "class_embedding.linear_1"),
    ("label_emb.0.2", "class_embedding.linear_2"),
)


def unet_modules(unet_config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each layer with weights as `(diffusers' name, original name)`; a few there are for which a model has none."""
    yield from ((theirs, ours) for ours, theirs in _BASIC)
    blocks, levels = unet_config["num_res_blocks"], len(unet_config["channel_mult"])
    depths = list(unet_config["transformer_depth"])
    depths_output = list(unet_config["transformer_depth_output"])
    number = 1
    for level in range(levels):
        for index in range(blocks[level]):
            theirs = f"down_blocks.{level}"
            yield from _block(f"input_blocks.{number}", theirs, index, depths.pop(0))
            number += 1
        yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{number}.0.op"
        number += 1
    middle = unet_config["transformer_depth_middle"]
    if middle >= -1:
        yield from _resnet("middle_block.0", "mid_block.resnets.0")
    if middle >= 0:
        yield from _attention("middle_block.1", "mid_block.attentions.0", middle)
        yield from _resnet("middle_block.2", "mid_block.resnets.1")
    number = 0
    for level, count in enumerate(reversed(blocks)):
        for index in range(count + 1):
            depth = depths_output.pop()
            yield from _block(f"output_blocks.{number}", f"up_blocks.{level}", index, depth)
            if index == count:
                place = 1 if depth == 0 else 2
                yield f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{number}.{place}.conv"
            number += 1


def _block(ours: str, theirs: str, index: int, depth: int) -> Iterator[tuple[str, str]]:
    yield from _resnet(f"{ours}.0", f"{theirs}.resnets.{index}")
    if depth > 0:
        yield from _attention(f"{ours}.1", f"{theirs}.attentions.{index}", depth)


def _resnet(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{theirs}.{there}", f"{ours}.{here}") for here, there in _RESNET)


def _attention(ours: str, theirs: str, depth: int) -> Iterator[tuple[str, str]]:
    yield from ((f"{theirs}.{name}", f"{ours}.{name}") for name in _ATTENTION)
    for number in range(depth):
        block = f"transformer_blocks.{number}"
        yield from ((f"{theirs}.{block}.{name}", f"{ours}.{block}.{name}") for name in _TRANSFORMER)


def unet_keys(unet_config: Mapping[str, Any]) -> dict[str, str]:
    """diffusers' parameter names to the original ones."""
    return {
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in unet_modules(unet_config)
        for kind in ("weight", "bias")
    }


def diffusers_unet_config(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The parts of `unet_config` that the names are made of, from diffusers' keys. None where they are not those."""
    if "conv_in.weight" not in state or "time_embedding.linear_1.weight" not in state:
        return None
    levels = count_blocks(state, "down_blocks.{}.")
    blocks = [count_blocks(state, f"down_blocks.{level}.resnets." + "{}.") for level in range(levels)]
    depths = [
        count_blocks(state, f"down_blocks.{level}.attentions.{index}.transformer_blocks." + "{}.")
        for level in range(levels)
        for index in range(blocks[level])
    ]
    ups = reversed([(level, index) for level in range(levels) for index in range(blocks[::-1][level] + 1)])
    depths_output = [
        count_blocks(state, f"up_blocks.{level}.attentions.{index}.transformer_blocks." + "{}.")
        for level, index in ups
    ]
    middle = -2
    if "mid_block.resnets.0.conv1.weight" in state:
        middle = -1
        if "mid_block.attentions.0.proj_in.weight" in state:
            middle = count_blocks(state, "mid_block.attentions.0.transformer_blocks.{}.")
    return {
        "num_res_blocks": blocks,
        "channel_mult": [1] * levels,
        "transformer_depth": depths,
        "transformer_depth_output": depths_output,
        "transformer_depth_middle": middle,
    }


def diffusers_unet_to_original(state: Mapping[str, Tensor]) -> StateDict | None:
    """A UNet of diffusers with the original names, or None where `state` is something else."""
    config = diffusers_unet_config(state)
    if config is None:
        return None
    names = unet_keys(config)
    return {names[key]: value for key, value in state.items() if key in names}
