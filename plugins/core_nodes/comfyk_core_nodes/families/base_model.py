"""A diffusion model as samplers see it: the network, its noise levels, and what conditions it takes.

`apply_model` takes a noisy latent and gives the clean one that the network sees in it. `extra_conds` turns what nodes
put into a conditioning into the network's inputs. Names and arguments are the field's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from comfyk_core_nodes.families.family import ModelConfig
from comfyk_core_nodes.memory.extensions import wrapped
from comfyk_core_nodes.sampling import model_sampling as levels
from comfyk_core_nodes.sampling import prediction
from comfyk_core_nodes.sampling.conds import CONDCrossAttn, CONDNoiseShape, CONDRegular
from comfyk_core_nodes.weights.mapped_files import check_all_there


class ModelType(Enum):
    EPS = 1
    V_PREDICTION = 2
    V_PREDICTION_EDM = 3
    EDM = 5
    FLOW = 6
    FLUX = 8


PREDICTIONS: dict[str, tuple[ModelType, type[nn.Module], type]] = {
    "eps": (ModelType.EPS, levels.ModelSamplingDiscrete, prediction.EPS),
    "v": (ModelType.V_PREDICTION, levels.ModelSamplingDiscrete, prediction.V_PREDICTION),
    "v_edm": (ModelType.V_PREDICTION_EDM, levels.ModelSamplingContinuousEDM, prediction.V_PREDICTION),
    "edm": (ModelType.EDM, levels.ModelSamplingContinuousEDM, prediction.EDM),
    "flow": (ModelType.FLOW, levels.ModelSamplingDiscreteFlow, prediction.CONST),
    "flux": (ModelType.FLUX, levels.ModelSamplingFlux, prediction.CONST),
}
"""What a network can predict, by the name that families give it: the field's name, the noise levels and the meaning."""


class BaseModel(nn.Module):
    """What all families share. Theirs say what else their networks take: `encode_adm`, `concat_cond`, `extra_conds`."""

    def __init__(
        self, model_config: ModelConfig, device: Any = None, *, unet_model: Callable[..., nn.Module]
    ) -> None:
        """`unet_model` makes the network: it is called with `model_config.unet_config` and `device` as keywords.

        Raises ValueError for a prediction that there is not.
        """
        super().__init__()
        self.model_config = model_config
        self.latent_format = model_config.latent_format
        self.manual_cast_dtype: torch.dtype | None = None
        """The dtype to compute in, where it is not that of the stored weights."""
        self.device = device
        self.diffusion_model: Any = unet_model(**model_config.unet_config, device=device)
        self.diffusion_model.eval()
        if model_config.prediction not in PREDICTIONS:
            known = ", ".join(PREDICTIONS)
            raise ValueError(f"there is no prediction {model_config.prediction!r}; there are {known}")
        self.model_type, noise_levels, meaning = PREDICTIONS[model_config.prediction]
        with torch.device("cpu"):
            self.model_sampling = levels.model_sampling(noise_levels, meaning, model_config)
        self.adm_channels = model_config.unet_config.get("adm_in_channels") or 0

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
        check_all_there()
        return self.model_sampling.calculate_denoised(t, output.float(), x)

    def get_dtype(self) -> torch.dtype:
        return self.diffusion_model.dtype

    def get_dtype_inference(self) -> torch.dtype:
        return self.manual_cast_dtype or self.get_dtype()

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
        return None

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
        given, wanted = (self.model_config.describe_prompt(width) for width in (prompt.shape[-1], taken))
        raise ValueError(
            f"the prompt has {given}, and this model ({self.model_config.name}) takes {wanted}: "
            "the text encoder is of another family; use the CLIP of the same checkpoint"
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


def _cast(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if isinstance(value, list):
        return [_cast(item, device, dtype) for item in value]
    return value
