"""Under which names LoRA files speak of a model's weights: `{name in the file: key of the model's state dict}`.

Trainers name a layer by the layout that they loaded the model in, with dots or underscores and a prefix:

- kohya (sd-scripts), OneTrainer: `lora_unet_` and `lora_te_`, `lora_te1_`, `lora_te2_`, underscores, in the layout
  of diffusers or, for SDXL, of the checkpoint;
- diffusers: `unet.` and `text_encoder.`, `text_encoder_2.`, or nothing, dots; before PEFT with `.processor` in it;
- PEFT: `base_model.model.` before that;
- LyCORIS as SimpleTuner saves it: `lycoris_`, underscores;
- any: the keys of the model themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

KeyMap = dict[str, str]

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

_TEXT_LAYER = re.compile(
    r"(clip_[lgh])\.transformer\."
    r"(text_model\.encoder\.layers\.\d+\.(?:mlp\.fc[12]|self_attn\.(?:k_proj|q_proj|v_proj|out_proj)))\.weight"
)


def unet_key_map(model: nn.Module) -> KeyMap:
    """The names of the layers of `model.diffusion_model`, a U-Net in the checkpoint's layout."""
    prefix = "diffusion_model."
    keys = [key for key in model.state_dict() if key.startswith(prefix)]
    names: KeyMap = {}
    for key in keys:
        layer, ending = key.rpartition(".")[::2]
        if ending == "weight":
            names[f"lora_unet_{layer.removeprefix(prefix).replace('.', '_')}"] = key
            names[layer] = key
        else:
            names[key] = key
    layers = [key.removeprefix(prefix).removesuffix(".weight") for key in keys if key.endswith(".weight")]
    for name, layer in diffusers_unet_names(layers).items():
        key = f"{prefix}{layer}.weight"
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


def clip_key_map(model: nn.Module) -> KeyMap:
    """The names of the layers of text encoders, a model whose keys begin with `clip_l.`, `clip_g.`, `clip_h.`.

    The second encoder of SDXL is `te2`; where CLIP-G is the only one, as in SDXL's refiner, it is `te`.
    """
    keys = set(model.state_dict())
    names: KeyMap = {}
    for key in keys:
        if key.endswith(".weight"):
            layer = key.removesuffix(".weight")
            names[f"text_encoders.{layer}"] = key
    has_l = any(key.startswith("clip_l.") for key in keys)
    for key in sorted(keys):
        match = _TEXT_LAYER.fullmatch(key)
        if match is None:
            continue
        encoder, layer = match.groups()
        flat = layer.replace(".", "_")
        if encoder == "clip_g" and has_l:
            flat_prefixes, prefixes = ("lora_te2_",), ("text_encoder_2.",)
        else:
            flat_prefixes = (
                ("lora_te_", "lora_te1_") if encoder != "clip_g" else ("lora_te_", "lora_prior_te_")
            )
            prefixes = ("text_encoder.",)
        for prefix in flat_prefixes:
            names[prefix + flat] = key
        for prefix in prefixes:
            names[prefix + layer] = key
            names[f"{prefix}base_model.model.{layer}"] = key
    for key, projections in (
        (
            "clip_g.transformer.text_projection.weight",
            ("lora_te2_text_projection", "lora_prior_te_text_projection"),
        ),
        ("clip_l.transformer.text_projection.weight", ("lora_te1_text_projection",)),
    ):
        if key in keys:
            names.update(dict.fromkeys(projections, key))
    return names
