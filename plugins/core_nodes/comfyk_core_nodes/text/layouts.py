"""How the same networks are named in the files of different programs, and their keys in the names used here.

Nothing is copied: keys are renamed, and what is stored in one tensor there and three here becomes views of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from comfyk_core_nodes.weights.files import StateDict, with_prefix

# Text encoders ---------------------------------------------------------------------------------------------------

_OPENCLIP = (
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("ln_final.", "text_model.final_layer_norm."),
    ("transformer.resblocks.", "text_model.encoder.layers."),
)
_OPENCLIP_LAYER = (
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    (".attn.out_proj.", ".self_attn.out_proj."),
)
_IN_PROJECTION = re.compile(r"(text_model\.encoder\.layers\.\d+)\.attn\.in_proj_(weight|bias)")


def openclip_to_transformers(state: Mapping[str, Tensor]) -> StateDict:
    """An OpenCLIP text model as `transformers` names it. Keys that are not the text model's are left out."""
    out: StateDict = {}
    for key, value in state.items():
        if key == "text_projection":
            # Stored to be multiplied from the right.
            out["text_projection.weight"] = value.transpose(0, 1)
            continue
        if key == "text_projection.weight":
            out[key] = value
            continue
        name = next((new + key[len(old) :] for old, new in _OPENCLIP if key.startswith(old)), None)
        if name is None:
            continue
        for old, new in _OPENCLIP_LAYER:
            name = name.replace(old, new)
        joint = _IN_PROJECTION.fullmatch(name)
        if joint is None:
            out[name] = value
        else:
            for part, tensor in zip("qkv", value.chunk(3), strict=True):
                out[f"{joint[1]}.self_attn.{part}_proj.{joint[2]}"] = tensor
    return out


_TEXT_PREFIXES = (
    "",
    "text_encoders.",
    "transformer.",
    "text_encoder.",
    "clip_l.transformer.",
    "clip_g.transformer.",
    "clip_h.transformer.",
    "clip_l.",
    "clip_g.",
    "clip_h.",
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.0.model.",
    "conditioner.embedders.1.model.",
    "model.",
)


def text_model_state(state: Mapping[str, Tensor]) -> StateDict | None:
    """The text model in `state` with the names of `transformers`, whatever the layout. None where there is none."""
    if "transformer.resblocks.0.ln_1.weight" in state:
        return openclip_to_transformers(state)
    if "text_model.encoder.layers.0.mlp.fc1.weight" in state:
        out = {k: v for k, v in state.items() if k.startswith(("text_model.", "text_projection."))}
        if "text_projection" in state:
            out["text_projection.weight"] = state["text_projection"].transpose(0, 1)
    elif "encoder.layers.0.mlp.fc1.weight" in state and "embeddings.token_embedding.weight" in state:
        # From before `transformers` 4.2: without `text_model.`
        out = {f"text_model.{k}": v for k, v in state.items()}
    else:
        return None
    return {k: v for k, v in out.items() if not k.endswith("position_ids")}


def find_text_model(state: Mapping[str, Tensor]) -> StateDict | None:
    """As `text_model_state`, under any of the prefixes that programs save text encoders with."""
    for prefix in _TEXT_PREFIXES:
        found = text_model_state(with_prefix(state, prefix) if prefix else state)
        if found is not None:
            return found
    return None


CHECKPOINT_TEXT: dict[str, tuple[tuple[str, str], ...]] = {
    "sd1": (("clip_l", "cond_stage_model.transformer."),),
    "sd2": (("clip_h", "cond_stage_model.model."), ("clip_h", "conditioner.embedders.0.model.")),
    "sdxl": (
        ("clip_l", "conditioner.embedders.0.transformer."),
        ("clip_g", "conditioner.embedders.1.model."),
    ),
    "sdxl_refiner": (("clip_g", "conditioner.embedders.0.model."),),
}
"""Where single-file checkpoints of a family keep which text encoder."""
CHECKPOINT_TEXT["sd21_unclip"] = CHECKPOINT_TEXT["sd_x4_upscaler"] = CHECKPOINT_TEXT["sd2"]


def checkpoint_text_models(state: Mapping[str, Tensor], family: str) -> dict[str, StateDict]:
    """The text models of a single-file checkpoint, by their key (`clip_l` ...)."""
    found: dict[str, StateDict] = {}
    for key, prefix in CHECKPOINT_TEXT.get(family, ()):
        model = text_model_state(with_prefix(state, prefix))
        if model is None:
            # As this program's own saving nodes and a few others write them.
            model = text_model_state(with_prefix(state, f"{key}.transformer."))
        if model is not None:
            found[key] = model
    return found


# Autoencoders ----------------------------------------------------------------------------------------------------

_VAE_PREFIXES = ("", "first_stage_model.", "vae.", "autoencoder.")
_DIFFUSERS_VAE = (
    (re.compile(r"\.conv_shortcut\."), ".nin_shortcut."),
    (re.compile(r"\.conv_norm_out\."), ".norm_out."),
    (re.compile(r"\.mid_block\.attentions\.0\."), ".mid.attn_1."),
    (re.compile(r"encoder\.down_blocks\.(\d+)\.resnets\."), r"encoder.down.\1.block."),
    (re.compile(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\."), r"encoder.down.\1.downsample."),
)
_DIFFUSERS_MIDDLE = re.compile(r"\.mid_block\.resnets\.(\d+)\.")
_DIFFUSERS_UP = re.compile(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers\.0)\.")
_ATTENTION = {
    "group_norm": "norm",
    "query": "q",
    "key": "k",
    "value": "v",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "proj_attn": "proj_out",
}


def vae_state(state: Mapping[str, Tensor]) -> StateDict:
    """The autoencoder in `state` with the original names: from a checkpoint, a file of its own, or diffusers."""
    for prefix in _VAE_PREFIXES:
        found = with_prefix(state, prefix) if prefix else dict(state)
        if "decoder.conv_in.weight" in found or "taesd_decoder.1.weight" in found:
            if "decoder.up_blocks.0.resnets.0.norm1.weight" in found:
                found = diffusers_vae_to_original(found)
            for inside in ("quant_conv", "post_quant_conv"):
                half = "encoder" if inside == "quant_conv" else "decoder"
                for name in ("weight", "bias"):
                    if f"{half}.{inside}.{name}" in found:
                        found[f"{inside}.{name}"] = found.pop(f"{half}.{inside}.{name}")
            return found
    return {}


def diffusers_vae_to_original(state: Mapping[str, Tensor]) -> StateDict:
    """diffusers' AutoencoderKL with the names, and the 1x1 convolutions, of the original."""
    top = max((int(m[1]) for m in map(_DIFFUSERS_UP.match, state) if m), default=0)
    out: StateDict = {}
    for key, value in state.items():
        name = key
        for pattern, new in _DIFFUSERS_VAE:
            name = pattern.sub(new, name)
        name = _DIFFUSERS_MIDDLE.sub(lambda m: f".mid.block_{int(m[1]) + 1}.", name)
        # Levels of the decoder are counted from the other end there.
        name = _DIFFUSERS_UP.sub(
            lambda m: f"decoder.up.{top - int(m[1])}.{'block' if m[2] == 'resnets' else 'upsample'}.", name
        )
        head, middle, rest = name.partition(".mid.attn_1.")
        if middle:
            layer, _, kind = rest.rpartition(".")
            layer = _ATTENTION.get(layer, layer)
            name = f"{head}{middle}{layer}.{kind}"
            if layer != "norm" and kind == "weight" and value.ndim == 2:
                value = value[:, :, None, None]
        out[name] = value
    return out
