"""From a file to a control: which kind it is, by its keys, and the network with the file's tensors as its weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from comfyk_core_nodes.control.adapter import AdapterNetwork
from comfyk_core_nodes.control.base import ControlBase
from comfyk_core_nodes.control.controlnet import ControlLora, ControlNet
from comfyk_core_nodes.control.layouts import diffusers_adapter_to_original, diffusers_controlnet_to_original
from comfyk_core_nodes.control.network import ControlNetModel, controlnet_config
from comfyk_core_nodes.control.t2i_adapter import T2IAdapter
from comfyk_core_nodes.memory.managed import managed_in_sampling
from comfyk_core_nodes.weights.build import Path, build, reading
from comfyk_core_nodes.weights.contents import describe
from comfyk_core_nodes.weights.files import ModelFileError, load_torch_file
from comfyk_core_nodes.weights.state_dict import StateDict, stored_dtype, with_prefix

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher

log = logging.getLogger(__name__)

EXPECTED = "a ControlNet, control-LoRA or T2I-Adapter for Stable Diffusion 1.x, 2.x or SDXL"
_PREFIX = "control_model."
_POOLED = ("_shuffle", "_shuffle_fp16")
"""Ends of the names of files whose residuals are averaged over the picture: nothing in them says so."""


def load_controlnet(
    path: Path, model: ModelPatcher | None = None, model_options: Mapping[str, Any] | None = None
) -> ControlBase:
    """The ControlNet, control-LoRA or T2I-Adapter in a file, of the original or diffusers' layout.

    Difference ControlNets hold what to add to the weights of `model`. Of `model_options`, `dtype` is what to compute
    in, `global_average_pooling` whether residuals are averaged over the picture (default: by the file's name).
    Raises ModelFileError for a file that is none of these, or is incomplete.
    """
    options = dict(model_options or {})
    state, _ = load_torch_file(path)
    with reading(path, EXPECTED):
        control = _read(path, state, model, options)
    stem = os.path.splitext(os.fspath(path))[0]
    control.global_average_pooling = options.get("global_average_pooling", stem.endswith(_POOLED))
    return control


def _read(path: Path, state: StateDict, model: ModelPatcher | None, options: dict[str, Any]) -> ControlBase:
    if "lora_controlnet" in state:
        # Its network is built with the model; what is always in the file is looked for now.
        for key in ("input_hint_block.0.weight", "zero_convs.0.0.weight"):
            state[key]
        return ControlLora(state)
    converted = diffusers_controlnet_to_original(state)
    if converted is not None:
        return _controlnet(converted, options)
    if f"{_PREFIX}zero_convs.0.0.weight" in state:
        own = with_prefix(state, _PREFIX)
        if "difference" in state:
            own = _add_base(path, own, model)
        return _controlnet(own, options)
    if "zero_convs.0.0.weight" in state:
        return _controlnet(state, options)
    adapter = diffusers_adapter_to_original(state) or state
    if "body.0.out_conv.weight" in adapter or "body.0.block1.weight" in adapter:
        return _t2i_adapter(adapter)
    if any(key.startswith("controlnet_blocks.") for key in state):
        raise ModelFileError(path, EXPECTED, "one for a transformer model, as SD3 and Flux are")
    raise ModelFileError(path, EXPECTED, describe(state))


def _controlnet(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> ControlNet:
    config = controlnet_config(state)
    network = build(lambda: ControlNetModel(state, config), state, strict=True)
    network.dtype = stored_dtype(state)
    patcher = managed_in_sampling(network, state, options.get("dtype"))
    return ControlNet(network, patcher, patcher.compute_dtype())


def _t2i_adapter(state: Mapping[str, Tensor]) -> T2IAdapter:
    return T2IAdapter(build(lambda: AdapterNetwork(state), state, strict=True))


def _add_base(path: Path, state: StateDict, model: ModelPatcher | None) -> StateDict:
    """The weights of a difference ControlNet: what the file has, on top of the model's where it has them too."""
    if model is None:
        log.warning(
            "%s holds differences to a model's weights and was loaded without one: it will not work", path
        )
        return state
    base = with_prefix(model.model_state_dict_for_saving("diffusion_model."), "diffusion_model.")
    return {
        key: (value.float() + base[key].to(value.device).float()).to(value.dtype)
        if key in base and base[key].shape == value.shape
        else value
        for key, value in state.items()
    }
