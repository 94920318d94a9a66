"""Stable Diffusion 1.x, 2.x, SDXL and their kin, as families: how each is told from the others. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from comfyk_core_nodes.families.family import Family, Layout, ModelConfig, Sizes, TextChain, Weights
from comfyk_core_nodes.families.sd.lora_keys import unet_key_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from comfyk_core_nodes.latents.format import LatentFormat
    from comfyk_core_nodes.text.clip import CLIP
    from comfyk_core_nodes.weights.state_dict import StateDict

V_PREDICTION_SPREAD = 0.09
"""Standard deviation of one norm's bias above which an SD 2.x UNet predicts v; its weights say it no other way."""
_SPREAD_KEY = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_MARKS = ("v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")

UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.", "unet.")
"""Where single-file checkpoints, and files that were cut out of them, keep the UNet."""
_FIRST = "input_blocks.0.0.weight"


# The network -----------------------------------------------------------------------------------------------------


def unet_prefix(weights: Weights) -> str | None:
    """The prefix of a UNet in the original layout, or None where there is none."""
    return next((prefix for prefix in ("", *UNET_PREFIXES) if prefix + _FIRST in weights), None)


def _sizes(weights: Weights) -> Sizes | None:
    from comfyk_core_nodes.families.sd.detection import unet_config

    return unet_config(weights)


def _converted(weights: Weights) -> StateDict | None:
    """A UNet of diffusers."""
    from comfyk_core_nodes.families.sd.diffusers_keys import diffusers_unet_to_original
    from comfyk_core_nodes.weights.state_dict import with_prefix

    return diffusers_unet_to_original(with_prefix(weights, "unet.") or weights)


UNET = Layout("Stable Diffusion 1.x, 2.x or SDXL", "UNet", unet_prefix, _sizes, _converted)


def _model(name: str) -> Callable[[ModelConfig, Any], Any]:
    def make(config: ModelConfig, device: Any = None) -> Any:
        from comfyk_core_nodes.families.sd import models

        return getattr(models, name)(config, device)

    return make


def _latents(name: str) -> Callable[[], LatentFormat]:
    def make() -> LatentFormat:
        from comfyk_core_nodes.families.sd import latent_formats

        return getattr(latent_formats, name)()

    return make


# Text ------------------------------------------------------------------------------------------------------------


def _read(weights: Weights) -> StateDict | None:
    from comfyk_core_nodes.text.layouts import text_model_state

    return text_model_state(weights)


def _tell(weights: Weights) -> tuple[str, StateDict] | None:
    from comfyk_core_nodes.families.sd.text_encoders import tell

    return tell(weights)


def _build(texts: Mapping[str, StateDict], embedding_directories: Sequence[str]) -> CLIP:
    from comfyk_core_nodes.families.sd.text_encoders import build

    return build(texts, embedding_directories)


def _text(width: int, known_as: str, *places: tuple[str, str]) -> TextChain:
    return TextChain(places, _read, _tell, _build, width, known_as)


TEXT_SD1 = _text(768, "SD 1.x", ("clip_l", "cond_stage_model.transformer."))
TEXT_SD2 = _text(
    1024,
    "SD 2.x",
    ("clip_h", "cond_stage_model.model."),
    ("clip_h", "conditioner.embedders.0.model."),
)
TEXT_SDXL = _text(
    2048,
    "SDXL",
    ("clip_l", "conditioner.embedders.0.transformer."),
    ("clip_g", "conditioner.embedders.1.model."),
)
TEXT_REFINER = _text(1280, "the SDXL refiner", ("clip_g", "conditioner.embedders.0.model."))


# How a network was trained ---------------------------------------------------------------------------------------


def _read_marks(config: ModelConfig, network: Weights, file: Weights, metadata: Mapping[str, str]) -> None:
    """Marks stand beside the networks, or with the UNet: `v_pred`, `ztsnr`, `edm_mean` and `edm_std` (Playground
    v2.5), `edm_vpred.sigma_max` (CosXL).
    """
    from comfyk_core_nodes.weights.norm_groups import norm_groups

    config.unet_config["norm_groups"] = norm_groups(metadata)
    marks = {key: network[key] for key in network if "." not in key}
    marks |= {key: file[key] for key in _MARKS if key in file}
    settings = config.sampling_settings
    if "edm_mean" in marks and "edm_std" in marks:
        config.latent_format = _latents("SDXL_Playground_2_5")()
        settings.update(sigma_data=0.5, sigma_max=80.0, sigma_min=0.002)
        config.prediction = "edm"
    elif "edm_vpred.sigma_max" in marks:
        settings["sigma_max"] = float(marks["edm_vpred.sigma_max"])
        if "edm_vpred.sigma_min" in marks:
            settings["sigma_min"] = float(marks["edm_vpred.sigma_min"])
        config.prediction = "v_edm"
    elif "v_pred" in marks or metadata.get("modelspec.prediction_type") == "v":
        config.prediction = "v"
    if config.prediction == "v" and "ztsnr" in marks:
        settings["zsnr"] = True


def _read_marks_2(config: ModelConfig, network: Weights, file: Weights, metadata: Mapping[str, str]) -> None:
    """As above; and SD 2.x says by how far one bias spreads that it predicts v."""
    bias = network.get(_SPREAD_KEY)
    if bias is not None and config.unet_config["in_channels"] == 4:
        spread = bias.float().std(unbiased=False)
        config.prediction = "v" if bool(spread > V_PREDICTION_SPREAD) else "eps"
    _read_marks(config, network, file, metadata)


# The families ----------------------------------------------------------------------------------------------------


def _has_vector(sizes: Mapping[str, Any]) -> bool:
    return sizes["adm_in_channels"] is not None


def _starts_with_attention(sizes: Mapping[str, Any]) -> bool:
    return bool(sizes["transformer_depth"]) and sizes["transformer_depth"][0] > 0


def _is_refiner(sizes: Mapping[str, Any]) -> bool:
    """Four levels, the first and the last of them without attention."""
    return len(sizes["channel_mult"]) == 4 and sizes["transformer_depth"][-1] == 0


SD_X4_UPSCALER = Family(
    "sd_x4_upscaler",
    "the Stable Diffusion x4 upscaler",
    UNET,
    lambda sizes: sizes["in_channels"] == 7 and isinstance(sizes.get("num_classes"), int),
    _model("X4Upscaler"),
    _latents("SD_X4"),
    TEXT_SD2,
    prediction="v",
    sampling_defaults={"linear_start": 0.0001, "linear_end": 0.02},
    read_marks=_read_marks,
    lora_keys=unet_key_map,
    files=("x4-upscaler*", "x4_upscaler*"),
)
SD21_UNCLIP = Family(
    "sd21_unclip",
    "Stable Diffusion 2.1 unCLIP",
    UNET,
    lambda sizes: _has_vector(sizes) and _starts_with_attention(sizes),
    _model("SD21UNCLIP"),
    _latents("SD15"),
    TEXT_SD2,
    read_marks=_read_marks_2,
    lora_keys=unet_key_map,
    clip_vision_prefix="embedder.model.visual.",
    files=("*sd21-unclip*", "*sd21_unclip*"),
)
SDXL_REFINER = Family(
    "sdxl_refiner",
    "the SDXL refiner",
    UNET,
    lambda sizes: _has_vector(sizes) and _is_refiner(sizes),
    _model("SDXLRefiner"),
    _latents("SDXL"),
    TEXT_REFINER,
    read_marks=_read_marks,
    lora_keys=unet_key_map,
    files=("*sd_xl_refiner*",),
)
SDXL = Family(
    "sdxl",
    "SDXL",
    UNET,
    _has_vector,
    _model("sdxl"),
    _latents("SDXL"),
    TEXT_SDXL,
    read_marks=_read_marks,
    lora_keys=unet_key_map,
    memory_factor=0.8,
    files=("*sd_xl*", "*sdxl*"),
)
SD2 = Family(
    "sd2",
    "Stable Diffusion 2.x",
    UNET,
    lambda sizes: sizes["use_linear_in_transformer"],
    _model("StableDiffusion"),
    _latents("SD15"),
    TEXT_SD2,
    read_marks=_read_marks_2,
    lora_keys=unet_key_map,
    files=("v2-0*", "v2-1*", "*512-base-ema*", "*768-v-ema*", "*sd20*", "*sd21*"),
)
SD1 = Family(
    "sd1",
    "Stable Diffusion 1.x",
    UNET,
    lambda sizes: sizes["context_dim"] is not None,
    _model("sd1"),
    _latents("SD15"),
    TEXT_SD1,
    read_marks=_read_marks,
    lora_keys=unet_key_map,
    files=("sd-v1*", "v1-4*", "v1-5*", "*sd14*", "*sd15*", "*sd1.4*", "*sd1.5*"),
)
FAMILIES = (SD_X4_UPSCALER, SD21_UNCLIP, SDXL_REFINER, SDXL, SD2, SD1)
