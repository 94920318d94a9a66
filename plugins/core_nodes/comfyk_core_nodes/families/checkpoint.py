"""From a file to models: whole checkpoints, and files of one network.

`load_checkpoint`, `load_diffusion_model`, `load_clip` and `load_vae` map the file, find out what it holds, build the
networks without memory for weights, and make the file's tensors their weights. Nothing is copied or cast until a
model is used. What cannot be loaded raises `ModelFileError`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from comfyk_core_nodes.devices import device as devices
from comfyk_core_nodes.families import base_model
from comfyk_core_nodes.families.base_model import BaseModel, ModelType
from comfyk_core_nodes.families.family import ModelConfig, model_config
from comfyk_core_nodes.families.sd.detection import unet_config, unet_prefix
from comfyk_core_nodes.families.sd.diffusers_keys import diffusers_unet_to_original
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.text import encoders as text_encoder
from comfyk_core_nodes.text import layouts
from comfyk_core_nodes.text.clip import CLIP, tokenizer_for
from comfyk_core_nodes.text.clip_model import text_config
from comfyk_core_nodes.vae.vae import VAE
from comfyk_core_nodes.weights.contents import describe
from comfyk_core_nodes.weights.dtypes import compute_dtype, text_encoder_dtype, unet_dtype
from comfyk_core_nodes.weights.files import (
    ModelFileError,
    StateDict,
    assign_weights,
    load_torch_file,
    stored_dtype,
    with_prefix,
)

log = logging.getLogger(__name__)

Path = str | os.PathLike[str]

_MODEL_TYPES = {
    "eps": ModelType.EPS,
    "v": ModelType.V_PREDICTION,
    "edm": ModelType.EDM,
    "v_edm": ModelType.V_PREDICTION_EDM,
}
_HABITS = {
    "clip_l": text_encoder.CLIP_L,
    "clip_h": text_encoder.CLIP_H,
    "clip_g": text_encoder.CLIP_G,
}
_MARKS = ("v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")


@dataclass
class Checkpoint:
    """What a checkpoint held. A part is None where the file has none, or it was not asked for."""

    model: ModelPatcher | None = None
    clip: CLIP | None = None
    vae: VAE | None = None
    clip_vision_state: StateDict = field(default_factory=dict)
    """The weights of the CLIP vision model that unCLIP checkpoints have, in OpenCLIP's layout."""


def load_checkpoint(
    path: Path,
    embedding_directories: Sequence[str] = (),
    *,
    output_model: bool = True,
    output_clip: bool = True,
    output_vae: bool = True,
    model_options: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """The models in a single-file checkpoint. `model_options` as for `load_diffusion_model`."""
    state, metadata = load_torch_file(path)
    prefix = unet_prefix(state)
    if prefix is None:
        raise ModelFileError(path, "a checkpoint of Stable Diffusion 1.x, 2.x or SDXL", describe(state))
    unet_state = with_prefix(state, prefix) if prefix else dict(state)
    config = _model_config(path, unet_state, state, metadata)
    found = Checkpoint()
    try:
        if output_model:
            found.model = _diffusion_model(config, unet_state, model_options or {})
        if output_vae and any(key.startswith("first_stage_model.") for key in state):
            found.vae = VAE(with_prefix(state, "first_stage_model."), metadata=metadata)
        if output_clip:
            texts = layouts.checkpoint_text_models(state, config.name)
            if texts:
                found.clip = _clip(texts, embedding_directories)
    except ValueError as error:
        raise ModelFileError(path, f"a checkpoint of {config.title}", str(error)) from error
    if config.clip_vision_prefix is not None:
        found.clip_vision_state = with_prefix(state, config.clip_vision_prefix)
    return found


def load_diffusion_model(path: Path, model_options: Mapping[str, Any] | None = None) -> ModelPatcher:
    """The UNet in a file of its own (original or diffusers layout), or in a checkpoint.

    `model_options["dtype"]` is the dtype to compute in, in place of the device's best.
    """
    state, metadata = load_torch_file(path)
    prefix = unet_prefix(state)
    if prefix is not None:
        unet_state: StateDict | None = with_prefix(state, prefix) if prefix else dict(state)
    else:
        inner = with_prefix(state, "unet.")
        unet_state = diffusers_unet_to_original(inner or state)
    if unet_state is None:
        raise ModelFileError(path, "a UNet of Stable Diffusion 1.x, 2.x or SDXL", describe(state))
    config = _model_config(path, unet_state, state, metadata)
    try:
        return _diffusion_model(config, unet_state, model_options or {})
    except ValueError as error:
        raise ModelFileError(path, f"a UNet of {config.title}", str(error)) from error


def load_clip(paths: Sequence[Path], embedding_directories: Sequence[str] = ()) -> CLIP:
    """The text encoders in files of their own: one for CLIP-L, OpenCLIP-H or OpenCLIP-G, two for SDXL."""
    texts: dict[str, StateDict] = {}
    for path in paths:
        state, _ = load_torch_file(path)
        text = layouts.find_text_model(state)
        if text is None:
            raise ModelFileError(path, "a CLIP text encoder", describe(state))
        key = _text_kind(text)
        if key in texts:
            raise ModelFileError(path, "two different text encoders", f"{key} for the second time")
        texts[key] = text
    try:
        return _clip(texts, embedding_directories)
    except ValueError as error:
        names = " and ".join(str(path) for path in paths)
        raise ModelFileError(names, "CLIP text encoders", str(error)) from error


def load_vae(path: Path) -> VAE:
    """The autoencoder in a file of its own (original or diffusers layout, TAESD), or in a checkpoint."""
    state, metadata = load_torch_file(path)
    try:
        return VAE(state, metadata=metadata)
    except ValueError as error:
        raise ModelFileError(path, "an autoencoder (VAE)", f"{describe(state)}; {error}") from error


def _model_config(
    path: Path, unet_state: Mapping[str, Tensor], state: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> ModelConfig:
    try:
        numbers = unet_config(unet_state)
        marks = {key: state[key] for key in _MARKS if key in state}
        config = None if numbers is None else model_config(numbers, unet_state, marks, metadata)
    except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
        raise ModelFileError(path, "a complete UNet", f"one whose {error} does not fit the rest") from error
    if config is None:
        raise ModelFileError(path, "a UNet of Stable Diffusion 1.x, 2.x or SDXL", f"the sizes {numbers}")
    return config


def _model_class(config: ModelConfig) -> type[BaseModel]:
    edits = config.unet_config["in_channels"] == 8
    if config.name == "sdxl":
        return base_model.SDXLInstructPix2Pix if edits else base_model.SDXL
    if config.name == "sd1" and edits:
        return base_model.InstructPix2Pix
    special: dict[str, type[BaseModel]] = {
        "sdxl_refiner": base_model.SDXLRefiner,
        "sd21_unclip": base_model.SD21UNCLIP,
        "sd_x4_upscaler": base_model.X4Upscaler,
    }
    return special.get(config.name, BaseModel)


def _diffusion_model(
    config: ModelConfig, unet_state: Mapping[str, Tensor], options: Mapping[str, Any]
) -> ModelPatcher:
    try:
        model = _model_class(config)(config, _MODEL_TYPES[config.prediction], device="meta")
    except (TypeError, StopIteration, IndexError, ZeroDivisionError, AssertionError, RuntimeError) as error:
        raise ValueError(f"the UNet's sizes do not fit together ({error})") from error
    missing, left_over = assign_weights(model.diffusion_model, unet_state)
    if missing:
        raise ValueError(f"{len(missing)} weights of the UNet are missing, as {missing[0]}")
    if left_over:
        log.debug("keys of no use in a UNet: %s", left_over)
    stored = stored_dtype(unet_state)
    model.diffusion_model.dtype = stored
    load_device = options.get("load_device") or devices.get_torch_device()
    wanted = options.get("dtype")
    if wanted is None:
        size = sum(tensor.numel() for tensor in unet_state.values())
        wanted = unet_dtype(load_device, size, config.supported_inference_dtypes, stored)
    model.manual_cast_dtype = compute_dtype(wanted, load_device, config.supported_inference_dtypes)
    offload_device = options.get("offload_device") or devices.unet_offload_device()
    return ModelPatcher(model, load_device, offload_device, weight_dtype=wanted)


def _text_kind(state: Mapping[str, Tensor]) -> str:
    """Which CLIP text model this is, by its depth or width."""
    sizes = text_config(state)
    assert sizes is not None
    if sizes["layers"] > 30 or sizes["width"] == 1280:
        return "clip_g"
    if sizes["layers"] > 22 or sizes["width"] == 1024:
        return "clip_h"
    return "clip_l"


def _clip(texts: Mapping[str, StateDict], embedding_directories: Sequence[str]) -> CLIP:
    encoders: dict[str, text_encoder.TextEncoder] = {}
    for key in sorted(texts, reverse=True):  # SDXL has CLIP-L first
        sizes = text_config(texts[key])
        if sizes is None:
            raise ValueError(f"the text encoder {key} is incomplete")
        sdxl = key == "clip_l" and "clip_g" in texts
        habits = text_encoder.CLIP_L_SDXL if sdxl else _HABITS[key]
        encoders[key] = text_encoder.TextEncoder(habits, sizes, device="meta")
    model = text_encoder.TextEncoders(encoders)
    for key, state in texts.items():
        missing, left_over = assign_weights(getattr(model, key).transformer, state)
        if missing:
            raise ValueError(f"{len(missing)} weights of {key} are missing, as {missing[0]}")
        if left_over:
            log.debug("keys of no use in a text encoder: %s", left_over)
    model.eval()
    load_device = devices.text_encoder_device()
    kept = text_encoder_dtype(load_device, stored_dtype(next(iter(texts.values()))))
    patcher = ModelPatcher(model, load_device, devices.text_encoder_offload_device(), weight_dtype=kept)
    return CLIP(model, tokenizer_for(model, embedding_directories), patcher)
