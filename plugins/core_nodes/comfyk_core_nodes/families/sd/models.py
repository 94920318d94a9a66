"""Stable Diffusion's models as samplers see them: what each takes besides the latent and the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from comfyk_core_nodes.families.base_model import BaseModel, ModelType
from comfyk_core_nodes.families.family import ModelConfig
from comfyk_core_nodes.families.sd.fit import fit_to
from comfyk_core_nodes.families.sd.latent_formats import SDXL as SDXLLatent
from comfyk_core_nodes.families.sd.noise_augmentation import NoiseAugmentation, unclip_vector
from comfyk_core_nodes.families.sd.unet import UNetModel, timestep_embedding
from comfyk_core_nodes.images.batch import spread_over_batch
from comfyk_core_nodes.sampling.conds import CONDNoiseShape, CONDRegular

BLANK_LATENT = (0.8223, -0.6876, 0.6364, 0.1380)
"""The latent of a grey picture, channel by channel: what an inpainting model is given where nothing is masked."""


class StableDiffusion(BaseModel):
    """Stable Diffusion 1.x and 2.x, and what the others share: a UNet, which inpaints if it takes nine channels."""

    def __init__(self, model_config: ModelConfig, device: Any = None) -> None:
        super().__init__(model_config, device=device, unet_model=UNetModel)
        self.concat_keys: tuple[str, ...] = ()
        if model_config.unet_config["in_channels"] == 9:
            self.set_inpaint()

    def set_inpaint(self) -> None:
        """Take a mask and a masked picture next to the latent, as inpainting models do."""
        self.concat_keys = ("mask", "masked_image")

    def blank_inpaint_image_like(self, noise: Tensor) -> Tensor:
        blank = torch.tensor(BLANK_LATENT, dtype=noise.dtype, device=noise.device)
        return torch.ones_like(noise) * blank.view(1, -1, 1, 1)

    def concat_cond(self, **kwargs: Any) -> Tensor | None:
        """The mask and the masked picture, for inpainting models."""
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


def _numbers(*values: float) -> Tensor:
    """Each number as 256 cosines and sines, one after another: `[1, 256 * len(values)]`."""
    return timestep_embedding(torch.tensor([float(value) for value in values]), 256).flatten().unsqueeze(0)


class SDXL(StableDiffusion):
    """SDXL is told the sizes that a picture was made from (Podell et al. 2023, arXiv:2307.01952, section 2.2)."""

    def __init__(self, model_config: ModelConfig, device: Any = None) -> None:
        super().__init__(model_config, device)
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


class SD21UNCLIP(StableDiffusion):
    """Stable Diffusion 2.1 unCLIP: pictures' embeddings in place of a vector for the text."""

    def __init__(self, model_config: ModelConfig, device: Any = None) -> None:
        super().__init__(model_config, device)
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


class InstructPix2Pix(StableDiffusion):
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


class X4Upscaler(StableDiffusion):
    """Stable Diffusion x4 upscaler: the small picture, with a little noise, as three more channels."""

    def __init__(self, model_config: ModelConfig, device: Any = None) -> None:
        super().__init__(model_config, device)
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


def sd1(config: ModelConfig, device: Any = None) -> StableDiffusion:
    """Stable Diffusion 1.x, or a model made of it that edits pictures: eight channels."""
    return (InstructPix2Pix if config.unet_config["in_channels"] == 8 else StableDiffusion)(config, device)


def sdxl(config: ModelConfig, device: Any = None) -> StableDiffusion:
    """As `sd1`, for SDXL."""
    return (SDXLInstructPix2Pix if config.unet_config["in_channels"] == 8 else SDXL)(config, device)
