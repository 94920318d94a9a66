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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

KeyMap = dict[str, str]

_TEXT_LAYER = re.compile(
    r"(clip_[lgh])\.transformer\."
    r"(text_model\.encoder\.layers\.\d+\.(?:mlp\.fc[12]|self_attn\.(?:k_proj|q_proj|v_proj|out_proj)))\.weight"
)


def text_lora_keys(model: nn.Module) -> KeyMap:
    """The names of the layers of text encoders: what their own `lora_keys()` says, where they have one, else CLIP's."""
    own = getattr(model, "lora_keys", None)
    return clip_key_map(model) if own is None else own()


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
