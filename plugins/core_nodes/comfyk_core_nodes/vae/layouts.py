"""How autoencoders are named in the files of different programs, and their keys in the names used here.

Nothing is copied: keys are renamed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from comfyk_core_nodes.weights.state_dict import StateDict, with_prefix

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
