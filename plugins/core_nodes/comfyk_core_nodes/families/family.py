"""The families of models, as a table: how each is told from the others, and what it is used with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from comfyk_core_nodes.families.sd import latent_formats
from comfyk_core_nodes.families.sd.latent_formats import LatentFormat

V_PREDICTION_SPREAD = 0.09
"""Standard deviation of one norm's bias above which an SD 2.x UNet predicts v; its weights say it no other way."""
_SPREAD_KEY = "output_blocks.11.1.transformer_blocks.0.norm1.bias"


@dataclass
class ModelConfig:
    """What a checkpoint was found to be. The attribute names are the field's."""

    name: str
    """Of its family: a key, not for people."""
    unet_config: dict[str, Any]
    latent_format: LatentFormat
    prediction: str
    """`eps`, `v`, `edm` or `v_edm`."""
    sampling_settings: dict[str, Any] = field(default_factory=dict)
    memory_usage_factor: float = 1.0
    text_encoders: tuple[str, ...] = ()
    clip_vision_prefix: str | None = None
    supported_inference_dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16, torch.float32)

    @property
    def title(self) -> str:
        """Its family in words, for messages."""
        return next((family.title for family in FAMILIES if family.name == self.name), self.name)

    @property
    def is_inpainting(self) -> bool:
        return self.unet_config["in_channels"] == 9


@dataclass(frozen=True, slots=True)
class Family:
    """One row. `title` is for people; `matches` is given `unet_config`; the first row that matches counts."""

    name: str
    title: str
    matches: Callable[[Mapping[str, Any]], bool]
    text_encoders: tuple[str, ...]
    latent_format: type[LatentFormat] = latent_formats.SD15
    memory_usage_factor: float = 1.0
    clip_vision_prefix: str | None = None
    sampling_settings: tuple[tuple[str, Any], ...] = ()


def _vector(config: Mapping[str, Any]) -> bool:
    return config["adm_in_channels"] is not None


def _starts_with_attention(config: Mapping[str, Any]) -> bool:
    return bool(config["transformer_depth"]) and config["transformer_depth"][0] > 0


def _is_refiner(config: Mapping[str, Any]) -> bool:
    """Four levels, the first and the last of them without attention."""
    return len(config["channel_mult"]) == 4 and config["transformer_depth"][-1] == 0


FAMILIES = (
    Family(
        "sd_x4_upscaler",
        "the Stable Diffusion x4 upscaler",
        lambda c: c["in_channels"] == 7 and isinstance(c.get("num_classes"), int),
        ("clip_h",),
        latent_formats.SD_X4,
        sampling_settings=(("linear_start", 0.0001), ("linear_end", 0.02)),
    ),
    Family(
        "sd21_unclip",
        "Stable Diffusion 2.1 unCLIP",
        lambda c: _vector(c) and _starts_with_attention(c),
        ("clip_h",),
        clip_vision_prefix="embedder.model.visual.",
    ),
    Family(
        "sdxl_refiner",
        "the SDXL refiner",
        lambda c: _vector(c) and _is_refiner(c),
        ("clip_g",),
        latent_formats.SDXL,
    ),
    Family("sdxl", "SDXL", _vector, ("clip_l", "clip_g"), latent_formats.SDXL, memory_usage_factor=0.8),
    Family("sd2", "Stable Diffusion 2.x", lambda c: c["use_linear_in_transformer"], ("clip_h",)),
    Family("sd1", "Stable Diffusion 1.x", lambda c: c["context_dim"] is not None, ("clip_l",)),
)


def model_config(
    unet_config: dict[str, Any],
    unet_state: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ModelConfig | None:
    """The family of a UNet, and how it was trained.

    `unet_state` has the UNet's own keys; `state` the whole file's, where marks stand beside the networks: `v_pred`,
    `ztsnr`, `edm_mean` and `edm_std` (Playground v2.5), `edm_vpred.sigma_max` (CosXL).
    """
    family = next((family for family in FAMILIES if family.matches(unet_config)), None)
    if family is None:
        return None
    config = ModelConfig(
        family.name,
        unet_config,
        family.latent_format(),
        "eps",
        dict(family.sampling_settings),
        family.memory_usage_factor,
        family.text_encoders,
        family.clip_vision_prefix,
    )
    _find_prediction(config, unet_state, {} if state is None else state, metadata or {})
    return config


def _find_prediction(
    config: ModelConfig,
    unet_state: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str],
) -> None:
    marks = {**{key: unet_state[key] for key in unet_state if "." not in key}, **state}
    settings = config.sampling_settings
    if "edm_mean" in marks and "edm_std" in marks:
        config.latent_format = latent_formats.SDXL_Playground_2_5()
        settings.update(sigma_data=0.5, sigma_max=80.0, sigma_min=0.002)
        config.prediction = "edm"
    elif "edm_vpred.sigma_max" in marks:
        settings["sigma_max"] = float(marks["edm_vpred.sigma_max"])
        if "edm_vpred.sigma_min" in marks:
            settings["sigma_min"] = float(marks["edm_vpred.sigma_min"])
        config.prediction = "v_edm"
    elif "v_pred" in marks or metadata.get("modelspec.prediction_type") == "v":
        config.prediction = "v"
    elif config.name in ("sd2", "sd21_unclip", "sd_x4_upscaler"):
        config.prediction = "v" if _sd2_predicts_v(config, unet_state) else "eps"
    if config.prediction == "v" and "ztsnr" in marks:
        settings["zsnr"] = True


def _sd2_predicts_v(config: ModelConfig, unet_state: Mapping[str, Tensor]) -> bool:
    if config.name == "sd_x4_upscaler":
        return True
    bias = unet_state.get(_SPREAD_KEY)
    if bias is None or config.unet_config["in_channels"] != 4:
        return False
    return bool(bias.float().std(unbiased=False) > V_PREDICTION_SPREAD)
