"""CLIP-L, OpenCLIP-H and OpenCLIP-G as Stable Diffusion uses them: told from each other, and built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from comfyk_core_nodes.devices.device import text_encoder_device, text_encoder_offload_device
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.text.clip import CLIP, tokenizer_for
from comfyk_core_nodes.text.clip_model import text_config
from comfyk_core_nodes.text.encoders import CLIP_G, CLIP_H, CLIP_L, CLIP_L_SDXL, TextEncoder, TextEncoders
from comfyk_core_nodes.text.layouts import find_text_model
from comfyk_core_nodes.weights.assign import fill
from comfyk_core_nodes.weights.dtypes import text_encoder_dtype
from comfyk_core_nodes.weights.state_dict import StateDict, stored_dtype

_HABITS = {"clip_l": CLIP_L, "clip_h": CLIP_H, "clip_g": CLIP_G}


def tell(state: Mapping[str, Tensor]) -> tuple[str, StateDict] | None:
    """Which CLIP text model is in a file, by its depth or width, and its weights. None for something else."""
    text = find_text_model(state)
    sizes = None if text is None else text_config(text)
    if text is None or sizes is None:
        return None
    if sizes["layers"] > 30 or sizes["width"] == 1280:
        return "clip_g", text
    if sizes["layers"] > 22 or sizes["width"] == 1024:
        return "clip_h", text
    return "clip_l", text


def build(texts: Mapping[str, StateDict], embedding_directories: Sequence[str]) -> CLIP:
    """The text encoders with these weights, by their keys. Raises ValueError where some are missing."""
    encoders: dict[str, TextEncoder] = {}
    for key in sorted(texts, reverse=True):  # SDXL has CLIP-L first
        sizes = text_config(texts[key])
        if sizes is None:
            raise ValueError(f"the text encoder {key} is incomplete")
        sdxl = key == "clip_l" and "clip_g" in texts
        encoders[key] = TextEncoder(CLIP_L_SDXL if sdxl else _HABITS[key], sizes, device="meta")
    model = TextEncoders(encoders)
    for key, state in texts.items():
        fill(getattr(model, key).transformer, state, key)
    model.eval()
    load_device = text_encoder_device()
    kept = text_encoder_dtype(load_device, stored_dtype(next(iter(texts.values()))))
    patcher = ModelPatcher(model, load_device, text_encoder_offload_device(), weight_dtype=kept)
    return CLIP(model, tokenizer_for(model, embedding_directories), patcher)
