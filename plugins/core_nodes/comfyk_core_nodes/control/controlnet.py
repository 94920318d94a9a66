"""A ControlNet as nodes and samplers hold it, and the control-LoRA, which is made of the model that it runs with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from comfyk_core_nodes.control.base import ControlBase, fit_picture, spread_hint
from comfyk_core_nodes.control.network import ControlNetModel
from comfyk_core_nodes.devices.device import get_torch_device
from comfyk_core_nodes.families.sd.unet import Control
from comfyk_core_nodes.images.batch import repeat_to_batch
from comfyk_core_nodes.weights.layers import StoredWeights, prepare_layers, stored_layers


class ControlNet(ControlBase):
    """`control_model` is the network, `control_model_wrapped` its ModelPatcher. Copies share both."""

    control_model: Any
    control_model_wrapped: Any

    def __init__(
        self, control_model: Any, control_model_wrapped: Any, manual_cast_dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.control_model = control_model
        self.control_model_wrapped = control_model_wrapped
        self.manual_cast_dtype = manual_cast_dtype
        """The dtype to compute in, where it is not that of the stored weights."""
        self.compression_ratio = getattr(control_model, "compression_ratio", self.compression_ratio)
        self.extra_conds = ["y"]
        self.model_sampling_current: Any = None

    def get_models(self) -> list[Any]:
        return [*super().get_models(), self.control_model_wrapped]

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        super().pre_run(model, percent_to_timestep_function)
        self.model_sampling_current = model.model_sampling

    def _forget_run(self) -> None:
        super()._forget_run()
        self.model_sampling_current = None

    @property
    def _dtype(self) -> torch.dtype:
        return self.manual_cast_dtype or self.control_model.dtype

    def residuals(self, x_noisy: Tensor, t: Tensor, cond: Mapping[str, Any], batched_number: int) -> Control:
        dtype, device, sampling = self._dtype, x_noisy.device, self.model_sampling_current
        hint = spread_hint(self._hint_for(x_noisy), x_noisy.shape[0], batched_number)
        context = cond.get("crossattn_controlnet", cond.get("c_crossattn"))
        extra = dict(self.extra_args)
        for name in self.extra_conds:
            if cond.get(name) is not None:
                extra[name] = _cast(cond[name], device, dtype)
        return self.control_model(
            x=sampling.calculate_input(t, x_noisy).to(dtype),
            hint=hint,
            timesteps=sampling.timestep(t).float(),
            context=None if context is None else _cast(context, device, dtype),
            **extra,
        )

    def _hint_for(self, x_noisy: Tensor) -> Tensor:
        """The hint at the size of this latent, in the dtype and on the device of the network."""
        height, width = (size * self.compression_ratio for size in x_noisy.shape[-2:])
        if self.cond_hint is None or self.cond_hint.shape[-2:] != (height, width):
            self.cond_hint = self._make_hint(height, width).to(device=x_noisy.device, dtype=self._dtype)
        return self.cond_hint

    def _make_hint(self, height: int, width: int) -> Tensor:
        assert self.cond_hint_original is not None, "set_cond_hint comes first"
        hint = fit_picture(self.cond_hint_original, width, height, self.upscale_algorithm)
        parts = [hint]
        for extra in self.extra_concat_orig:
            extra = fit_picture(extra.to(hint), hint.shape[-1], hint.shape[-2], self.upscale_algorithm)
            parts.append(repeat_to_batch(extra, hint.shape[0]))
        return torch.cat(parts, dim=1)


class ControlLora(ControlNet):
    """A ControlNet whose weights are mostly the model's own, with low-rank changes (Stability AI 2023).

    The network is built for each run from the weights of the model, as they are patched then; the file's changes are
    added as the weights are cast. Nothing is copied to be kept.
    """

    def __init__(self, control_weights: Mapping[str, Tensor]) -> None:
        super().__init__(None, None)
        self.control_weights = {
            key: value for key, value in control_weights.items() if key != "lora_controlnet"
        }

    def get_models(self) -> list[Any]:
        return ControlBase.get_models(self)

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        own = sum(weight.numel() for weight in self.control_weights.values()) * dtype.itemsize
        return own + super().inference_memory_requirements(dtype)

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        super().pre_run(model, percent_to_timestep_function)
        unet = model.diffusion_model
        shapes = {**unet.state_dict(), **self.control_weights}
        with torch.device("meta"):
            network = ControlNetModel(shapes, model.model_config.unet_config)
        network.dtype = model.get_dtype()
        self.manual_cast_dtype = model.get_dtype_inference()
        for name, layer in stored_layers(network):
            self._fill(name, layer, unet)
        self.control_model = network.eval()
        self.compression_ratio = network.compression_ratio
        prepare_layers(network, get_torch_device(), self._dtype)

    def _fill(self, name: str, layer: StoredWeights, unet: torch.nn.Module) -> None:
        """Give a layer its weights: the file's own, or else the UNet's with the file's change."""
        base = _submodule(unet, name)
        weight = self.control_weights.get(f"{name}.weight")
        if weight is None:
            if base is None:
                raise ValueError(f"the weights of {name} are neither in the control-LoRA nor in the model")
            layer.weight = base.weight
            layer.scale_weight = base.scale_weight
            layer.weight_function = list(base.weight_function)
            up, down = (self.control_weights.get(f"{name}.{part}") for part in ("up", "down"))
            if up is not None and down is not None:
                layer.weight_function.append(_low_rank(up, down))
        else:
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        if layer.bias is None:
            return
        bias = self.control_weights.get(f"{name}.bias")
        if bias is not None:
            layer.bias = torch.nn.Parameter(bias, requires_grad=False)
        elif base is not None:
            layer.bias = base.bias
            layer.bias_function = list(base.bias_function)

    def _forget_run(self) -> None:
        super()._forget_run()
        self.control_model = None


def _low_rank(up: Tensor, down: Tensor) -> Callable[[Tensor], Tensor]:
    """Adds `up @ down` to a weight, whatever its shape."""

    def add(weight: Tensor) -> Tensor:
        change = up.to(weight).flatten(1) @ down.to(weight).flatten(1)
        return weight + change.reshape(weight.shape)

    return add


def _submodule(module: torch.nn.Module, name: str) -> Any:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _cast(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
