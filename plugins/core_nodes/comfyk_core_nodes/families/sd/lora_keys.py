"""Under which names LoRA files speak of the layers of a UNet: see `text.lora_keys`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from comfyk_core_nodes.families.lora_keys import PREFIX, plain_lora_keys

if TYPE_CHECKING:
    from torch import nn

    from comfyk_core_nodes.text.lora_keys import KeyMap

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_OUTSIDE_BLOCKS = {
    "input_blocks.0.0": ("conv_in",),
    "time_embed.0": ("time_embedding.linear_1",),
    "time_embed.2": ("time_embedding.linear_2",),
    "label_emb.0.0": ("class_embedding.linear_1", "add_embedding.linear_1"),
    "label_emb.0.2": ("class_embedding.linear_2", "add_embedding.linear_2"),
    "out.0": ("conv_norm_out",),
    "out.2": ("conv_out",),
}
_MIDDLE = {"0": "mid_block.resnets.0", "1": "mid_block.attentions.0", "2": "mid_block.resnets.1"}


def unet_key_map(model: nn.Module) -> KeyMap:
    """The names of the layers of `model.diffusion_model`, a U-Net in the checkpoint's layout."""
    names = plain_lora_keys(model)
    layers = [
        key.removeprefix(PREFIX).removesuffix(".weight")
        for key in dict.fromkeys(names.values())
        if key.endswith(".weight")
    ]
    for name, layer in diffusers_unet_names(layers).items():
        key = f"{PREFIX}{layer}.weight"
        flat = name.replace(".", "_")
        names[f"lora_unet_{flat}"] = key
        names[f"lycoris_{flat}"] = key
        for spelling in {name, name.removesuffix(".0") if name.endswith(".to_out.0") else name}:
            processor = spelling.replace(".to_", ".processor.to_")
            for before in ("", "unet.", "base_model.model.", "unet.base_model.model."):
                names[before + spelling] = key
                names[before + processor] = key
    return names


def diffusers_unet_names(layers: Iterable[str]) -> dict[str, str]:
    """diffusers' names of the layers of a U-Net, `{name in diffusers: name in the checkpoint}`, both without `.weight`.

    Checkpoints number the blocks through, `input_blocks.4.1`; diffusers numbers levels and then blocks in them,
    `down_blocks.1.attentions.0`. Where a level ends is read from where there is a resampling layer.
    """
    names: dict[str, str] = {}
    blocks: dict[tuple[str, int], list[str]] = {}
    for layer in layers:
        for name in _OUTSIDE_BLOCKS.get(layer, ()):
            names[name] = layer
        kind, _, rest = layer.partition(".")
        number, _, inside = rest.partition(".")
        if kind in ("input_blocks", "output_blocks") and number.isdigit():
            blocks.setdefault((kind, int(number)), []).append(inside)
        elif kind == "middle_block" and number in _MIDDLE:
            names[f"{_MIDDLE[number]}.{_inside(inside)}"] = layer
    for kind, side, resampler in (("input_blocks", "down", "op"), ("output_blocks", "up", "conv")):
        level = index = 0
        for number in sorted(number for found, number in blocks if found == kind):
            inside = blocks[kind, number]
            if kind == "input_blocks" and number == 0:
                continue
            ends = False
            for layer in inside:
                part, _, rest = layer.partition(".")
                if rest == resampler:
                    ends = True
                    name = f"{side}_blocks.{level}.{side}samplers.0.conv"
                elif part == "0":
                    name = f"{side}_blocks.{level}.resnets.{index}.{_inside(rest)}"
                else:
                    name = f"{side}_blocks.{level}.attentions.{index}.{rest}"
                names[name] = f"{kind}.{number}.{layer}"
            level, index = (level + 1, 0) if ends else (level, index + 1)
    return names


def _inside(layer: str) -> str:
    return _RESNET.get(layer, layer)
