"""A diffusion model as samplers see it: the network, its noise levels, and what conditions it takes.

`apply_model` takes a noisy latent and gives the clean one that the network sees in it. `extra_conds` turns what nodes
put into a conditioning into the network's inputs. Names and arguments are the field's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from comfyk_core_nodes.families.family import ModelConfig
from comfyk_core_nodes.families.missing_parts import text_width
from comfyk_core_nodes.families.sd.latent_formats import SDXL as SDXLLatent
from comfyk_core_nodes.families.sd.noise_augmentation import NoiseAugmentation, unclip_vector
from comfyk_core_nodes.families.sd.unet import UNetModel, timestep_embedding
from comfyk_core_nodes.images.resize import resize_images
from comfyk_core_nodes.memory.extensions import wrapped
from comfyk_core_nodes.sampling import model_sampling as levels
from comfyk_core_nodes.sampling import prediction
from comfyk_core_nodes.sampling.conds import CONDCrossAttn, CONDNoiseShape, CONDRegular


class ModelType(Enum):
    EPS = 1
    V_PREDICTION = 2
    V_PREDICTION_EDM = 3
    EDM = 5


_SAMPLING: dict[ModelType, tuple[type[nn.Module], type]] = {
    ModelType.EPS: (levels.ModelSamplingDiscrete, prediction.EPS),
    ModelType.V_PREDICTION: (levels.ModelSamplingDiscrete, prediction.V_PREDICTION),
    ModelType.V_PREDICTION_EDM: (levels.ModelSamplingContinuousEDM, prediction.V_PREDICTION),
    ModelType.EDM: (levels.ModelSamplingContinuousEDM, prediction.EDM),
}

BLANK_LATENT = (0.8223, -0.6876, 0.6364, 0.1380)
"""The latent of a grey picture, channel by channel: what an inpainting model is given where nothing is masked."""


class BaseModel(nn.Module):
    """Stable Diffusion 1.x and 2.x, and what the others share."""

    def __init__(
        self, model_config: ModelConfig, model_type: ModelType = ModelType.EPS, device: Any = None
    ) -> None:
        super().__init__()
        self.model_config = model_config
        self.latent_format = model_config.latent_format
        self.manual_cast_dtype: torch.dtype | None = None
        """The dtype to compute in, where it is not that of the stored weights."""
        self.device = device
        self.diffusion_model = UNetModel(**model_config.unet_config, device=device)
        self.diffusion_model.eval()
        self.model_type = model_type
        halves = _SAMPLING[model_type]
        with torch.device("cpu"):
            self.model_sampling = levels.model_sampling(*halves, model_config)
        self.adm_channels = model_config.unet_config.get("adm_in_channels") or 0
        self.concat_keys: tuple[str, ...] = ()
        if model_config.is_inpainting:
            self.set_inpaint()

    def apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The clean latent in `x` `[B, C, H, W]`, whose noise is of the levels `t` `[B]` (sigmas)."""
        apply = wrapped("apply_model", transformer_options, self._apply_model, self)
        return apply(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def _apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        inputs = self.model_sampling.calculate_input(t, x)
        if c_concat is not None:
            inputs = torch.cat([inputs, c_concat.to(inputs)], dim=1)
        dtype = self.get_dtype_inference()
        inputs = inputs.to(dtype)
        timestep = self.model_sampling.timestep(t).float()
        context = None if c_crossattn is None else c_crossattn.to(device=x.device, dtype=dtype)
        conds = {name: _cast(value, x.device, dtype) for name, value in kwargs.items()}
        output = self.diffusion_model(
            inputs,
            timestep,
            context=context,
            control=control,
            transformer_options=dict(transformer_options or {}),
            **conds,
        )
        return self.model_sampling.calculate_denoised(t, output.float(), x)

    def get_dtype(self) -> torch.dtype:
        return self.diffusion_model.dtype

    def get_dtype_inference(self) -> torch.dtype:
        return self.manual_cast_dtype or self.get_dtype()

    def set_inpaint(self) -> None:
        """Take a mask and a masked picture next to the latent, as inpainting models do."""
        self.concat_keys = ("mask", "masked_image")

    def blank_inpaint_image_like(self, noise: Tensor) -> Tensor:
        blank = torch.tensor(BLANK_LATENT, dtype=noise.dtype, device=noise.device)
        return torch.ones_like(noise) * blank.view(1, -1, 1, 1)

    def process_latent_in(self, latent: Tensor) -> Tensor:
        return self.latent_format.process_in(latent)

    def process_latent_out(self, latent: Tensor) -> Tensor:
        return self.latent_format.process_out(latent)

    def scale_latent_inpaint(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, **kwargs: Any
    ) -> Tensor:
        """The known part of the picture at level `sigma` `[B]`, for the places that a noise mask leaves alone."""
        sigma = sigma.reshape([sigma.shape[0]] + [1] * (noise.ndim - 1))
        return self.model_sampling.noise_scaling(sigma, noise, latent_image)

    def encode_adm(self, **kwargs: Any) -> Tensor | None:
        """The vector that the model takes besides the text, `[B, A]`, or None."""
        return None

    def concat_cond(self, **kwargs: Any) -> Tensor | None:
        """What is put next to the latent's channels, `[B, C', H, W]`, or None."""
        if not self.concat_keys:
            return None
        noise, device = kwargs["noise"], kwargs["device"]
        mask = kwargs.get("concat_mask", kwargs.get("denoise_mask"))
        image = kwargs.get("concat_latent_image")
        image = kwargs.get("latent_image") if image is None else self.process_latent_in(image)
        if mask is None or image is None:
            parts = {
                "mask": torch.ones_like(noise)[:, :1],
                "masked_image": self.blank_inpaint_image_like(noise),
            }
        else:
            if mask.ndim == noise.ndim:
                mask = mask[:, :1]
            mask = fit_to(mask.reshape(-1, 1, *mask.shape[-2:]), noise, rounded=True)
            parts = {"mask": mask, "masked_image": fit_to(image, noise)}
        return torch.cat([parts[key].to(device) for key in self.concat_keys], dim=1)

    def extra_conds(self, **kwargs: Any) -> dict[str, CONDRegular]:
        """The network's inputs by their name, from a conditioning's entries and `noise`, `device`, `latent_image`,
        `denoise_mask`, `width`, `height` (pixels), `prompt_type` (`positive`, `negative`), `seed`.

        Raises ValueError for a prompt or a vector of another family of models.
        """
        conds: dict[str, CONDRegular] = {}
        self._check_text(kwargs.get("cross_attn"))
        concat = kwargs.get("noise_concat")
        concat = self.concat_cond(**kwargs) if concat is None else concat
        if concat is not None:
            conds["c_concat"] = CONDNoiseShape(concat)
        vector = self.encode_adm(**kwargs)
        if vector is not None:
            self._check_vector(vector)
            conds["y"] = CONDRegular(vector)
        for name, source in (
            ("c_crossattn", "cross_attn"),
            ("crossattn_controlnet", "cross_attn_controlnet"),
        ):
            if kwargs.get(source) is not None:
                conds[name] = CONDCrossAttn(kwargs[source])
        return conds

    def _check_text(self, prompt: Tensor | None) -> None:
        taken = self.model_config.unet_config.get("context_dim")
        if prompt is None or taken is None or prompt.shape[-1] == taken:
            return
        raise ValueError(
            f"the prompt has {text_width(prompt.shape[-1])}, and this model ({self.model_config.name}) takes "
            f"{text_width(taken)}: the text encoder is of another family; use the CLIP of the same checkpoint"
        )

    def _check_vector(self, vector: Tensor) -> None:
        if vector.shape[-1] == self.adm_channels:
            return
        raise ValueError(
            f"the vector that goes with the prompt has {vector.shape[-1]} numbers, and this model "
            f"({self.model_config.name}) takes {self.adm_channels}: the encoder that made it is of another "
            "family; use the CLIP, or the CLIP vision model, of the same checkpoint"
        )

    def extra_conds_shapes(self, **kwargs: Any) -> dict[str, list[int]]:
        return {}

    def memory_required(self, input_shape: list[int], cond_shapes: Mapping[str, Any] | None = None) -> float:
        """Bytes that a forward pass on `[B, C, H, W]` takes at most, besides the weights."""
        area = input_shape[0] * math.prod(input_shape[2:])
        per_place = self.get_dtype_inference().itemsize * 0.01 * self.model_config.memory_usage_factor
        return area * per_place * 1024 * 1024


def fit_to(tensor: Tensor, noise: Tensor, rounded: bool = False) -> Tensor:
    """`tensor` `[B', C, h, w]` as large as `noise` (cut to its aspect) and as many: spread over the batch."""
    height, width = noise.shape[-2:]
    if tensor.shape[-2:] != noise.shape[-2:]:
        tensor = resize_images(tensor.movedim(1, -1), width, height, "bilinear", "center").movedim(-1, 1)
    return spread_over_batch(tensor.round() if rounded else tensor, noise.shape[0])


def spread_over_batch(tensor: Tensor, batch: int) -> Tensor:
    """`batch` items of `tensor`: each as often as the others when it has fewer, evenly picked when it has more."""
    have = tensor.shape[0]
    if have == batch:
        return tensor
    if batch <= 1:
        return tensor[:batch]
    if batch < have:
        step = (have - 1) / (batch - 1)
        picks = [min(round(i * step), have - 1) for i in range(batch)]
    else:
        picks = [min(int((i + 0.5) * have / batch), have - 1) for i in range(batch)]
    return tensor[picks]


def _cast(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if isinstance(value, list):
        return [_cast(item, device, dtype) for item in value]
    return value


def _numbers(*values: float) -> Tensor:
    """Each number as 256 cosines and sines, one after another: `[1, 256 * len(values)]`."""
    return timestep_embedding(torch.tensor([float(value) for value in values]), 256).flatten().unsqueeze(0)


class SDXL(BaseModel):
    """SDXL is told the sizes that a picture was made from (Podell et al. 2023, arXiv:2307.01952, section 2.2)."""

    def __init__(
        self, model_config: ModelConfig, model_type: ModelType = ModelType.EPS, device: Any = None
    ) -> None:
        super().__init__(model_config, model_type, device)
        self.noise_augmentor = NoiseAugmentation("cosine")

    def _pooled(self, kwargs: Mapping[str, Any]) -> Tensor:
        if "unclip_conditioning" not in kwargs:
            if kwargs.get("pooled_output") is None:
                raise ValueError(
                    f"the prompt comes without a pooled output, and this model ({self.model_config.name}) "
                    "takes one: the text encoder is of another family; use the CLIP of the same checkpoint"
                )
            return kwargs["pooled_output"]
        seed = kwargs.get("seed", 0) - 10
        vector = unclip_vector(
            kwargs["unclip_conditioning"], kwargs["device"], self.noise_augmentor, seed=seed
        )
        return vector[:, : self.adm_channels - 256 * len(self._sizes(kwargs))]

    def _sizes(self, kwargs: Mapping[str, Any]) -> list[float]:
        width, height = kwargs.get("width", 768), kwargs.get("height", 768)
        return [
            height,
            width,
            kwargs.get("crop_h", 0),
            kwargs.get("crop_w", 0),
            kwargs.get("target_height", height),
            kwargs.get("target_width", width),
        ]

    def encode_adm(self, **kwargs: Any) -> Tensor:
        pooled = self._pooled(kwargs)
        numbers = _numbers(*self._sizes(kwargs)).to(pooled.device)
        return torch.cat([pooled, numbers.repeat(pooled.shape[0], 1)], dim=1)


class SDXLRefiner(SDXL):
    """The refiner is told how pretty the picture should be in place of a target size."""

    def _sizes(self, kwargs: Mapping[str, Any]) -> list[float]:
        default = 2.5 if kwargs.get("prompt_type") == "negative" else 6
        return [*super()._sizes(kwargs)[:4], kwargs.get("aesthetic_score", default)]


class SD21UNCLIP(BaseModel):
    """Stable Diffusion 2.1 unCLIP: pictures' embeddings in place of a vector for the text."""

    def __init__(
        self, model_config: ModelConfig, model_type: ModelType = ModelType.EPS, device: Any = None
    ) -> None:
        super().__init__(model_config, model_type, device)
        self.noise_augmentor = NoiseAugmentation("cosine")

    def encode_adm(self, **kwargs: Any) -> Tensor:
        pictures, device = kwargs.get("unclip_conditioning"), kwargs["device"]
        if pictures is None:
            return torch.zeros((1, self.adm_channels), device=device)
        for picture in pictures:
            width = picture["clip_vision_output"].image_embeds.shape[-1]
            if 2 * width != self.adm_channels:
                raise ValueError(
                    f"the picture's embedding has {width} numbers, and this model ({self.model_config.name}) "
                    f"takes {self.adm_channels // 2}: use the CLIP vision model of the same checkpoint"
                )
        merge = kwargs.get("unclip_noise_augment_merge", 0.05)
        return unclip_vector(pictures, device, self.noise_augmentor, merge, kwargs.get("seed", 0) - 10)


class InstructPix2Pix(BaseModel):
    """A model that is given the picture to edit as four more channels (Brooks et al. 2022, arXiv:2211.09800)."""

    def concat_cond(self, **kwargs: Any) -> Tensor:
        noise, image = kwargs["noise"], kwargs.get("concat_latent_image")
        image = torch.zeros_like(noise) if image is None else image.to(kwargs["device"])
        if image.shape[1:] != noise.shape[1:]:
            image = fit_to(image, noise)
        return self.process_ip2p_image_in(spread_over_batch(image, noise.shape[0]))

    def process_ip2p_image_in(self, image: Tensor) -> Tensor:
        return image


class SDXLInstructPix2Pix(InstructPix2Pix, SDXL):
    def process_ip2p_image_in(self, image: Tensor) -> Tensor:
        """CosXL Edit scales the picture's latent; the models that diffusers trains do not."""
        return SDXLLatent().process_in(image) if self.model_type == ModelType.V_PREDICTION_EDM else image


class X4Upscaler(BaseModel):
    """Stable Diffusion x4 upscaler: the small picture, with a little noise, as three more channels."""

    def __init__(
        self, model_config: ModelConfig, model_type: ModelType = ModelType.EPS, device: Any = None
    ) -> None:
        super().__init__(model_config, model_type, device)
        self.noise_augmentor = NoiseAugmentation("linear", max_noise_level=350)

    def extra_conds(self, **kwargs: Any) -> dict[str, CONDRegular]:
        noise, image, device = kwargs["noise"], kwargs.get("concat_image"), kwargs["device"]
        image = torch.zeros_like(noise)[:, :3] if image is None else image.to(device)
        if image.shape[1:] != noise.shape[1:]:
            image = fit_to(image, noise)
        strength = kwargs.get("noise_augmentation", 0.0)
        level = round(self.noise_augmentor.max_noise_level * strength)
        if strength > 0:
            generator = torch.Generator().manual_seed(kwargs["seed"] - 10)
            image = self.noise_augmentor(image, level, generator)
        conds = super().extra_conds(**kwargs)
        conds["c_concat"] = CONDNoiseShape(spread_over_batch(image, noise.shape[0]))
        conds["y"] = CONDRegular(torch.tensor([level], device=device))
        return conds
