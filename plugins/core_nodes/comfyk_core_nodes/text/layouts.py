"""How text encoders are named in the files of different programs, and their keys in the names used here.

Nothing is copied: keys are renamed, and what is stored in one tensor there and three here becomes views of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from comfyk_core_nodes.weights.clip_encoder import openclip_layer
from comfyk_core_nodes.weights.state_dict import StateDict, with_prefix

_OPENCLIP = (
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("ln_final.", "text_model.final_layer_norm."),
)


def openclip_to_transformers(state: Mapping[str, Tensor]) -> StateDict:
    """An OpenCLIP text model as `transformers` names it. Keys that are not the text model's are left out."""
    out: StateDict = {}
    for key, value in state.items():
        if key == "text_projection":
            # Stored to be multiplied from the right.
            out["text_projection.weight"] = value.transpose(0, 1)
        elif key == "text_projection.weight":
            out[key] = value
        elif (layer := openclip_layer(key, value, "text_model.")) is not None:
            out |= layer
        else:
            out |= {new + key[len(old) :]: value for old, new in _OPENCLIP if key.startswith(old)}
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
