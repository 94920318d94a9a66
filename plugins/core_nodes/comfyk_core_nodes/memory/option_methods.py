"""Methods of `ModelPatcher` that set model options (see `memory.model_options`), or go through the patches in them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from comfyk_core_nodes.memory import model_options as options

if TYPE_CHECKING:
    import torch


class HasOptions(Protocol):
    """What these methods use of a patcher."""

    model_options: options.ModelOptions


def disable_model_cfg1_optimization(patcher: HasOptions) -> None:
    """Have the negative conditioning computed even where CFG 1 makes it count for nothing."""
    patcher.model_options["disable_cfg1_optimization"] = True


def set_model_sampler_cfg_function(
    patcher: HasOptions, sampler_cfg_function: Callable[..., Any], disable_cfg1_optimization: bool = False
) -> None:
    """Put cond and uncond together by this: it takes a dict, or in the old way `(cond, uncond, cfg)`."""
    function = sampler_cfg_function
    if len(inspect.signature(sampler_cfg_function).parameters) == 3:
        function = lambda args: sampler_cfg_function(args["cond"], args["uncond"], args["cond_scale"])  # noqa: E731
    patcher.model_options["sampler_cfg_function"] = function
    if disable_cfg1_optimization:
        disable_model_cfg1_optimization(patcher)


def set_model_sampler_post_cfg_function(
    patcher: HasOptions, post_cfg_function: Callable[..., Any], disable_cfg1_optimization: bool = False
) -> None:
    options.set_model_options_post_cfg_function(
        patcher.model_options, post_cfg_function, disable_cfg1_optimization
    )


def set_model_sampler_pre_cfg_function(
    patcher: HasOptions, pre_cfg_function: Callable[..., Any], disable_cfg1_optimization: bool = False
) -> None:
    options.set_model_options_pre_cfg_function(
        patcher.model_options, pre_cfg_function, disable_cfg1_optimization
    )


def set_model_sampler_calc_cond_batch_function(patcher: HasOptions, function: Callable[..., Any]) -> None:
    patcher.model_options["sampler_calc_cond_batch_function"] = function


def set_model_unet_function_wrapper(patcher: HasOptions, unet_wrapper_function: Callable[..., Any]) -> None:
    """Have the sampler call this with the model's `apply_model` and a dict of its arguments."""
    patcher.model_options["model_function_wrapper"] = unet_wrapper_function


def set_model_denoise_mask_function(patcher: HasOptions, denoise_mask_function: Callable[..., Any]) -> None:
    patcher.model_options["denoise_mask_function"] = denoise_mask_function


def set_model_patch(patcher: HasOptions, patch: Any, name: str) -> None:
    """Have the network call `patch` at the point `name`, after those that are there already."""
    patches = patcher.model_options["transformer_options"].setdefault("patches", {})
    patches[name] = [*patches.get(name, []), patch]


def set_model_patch_replace(
    patcher: HasOptions,
    patch: Any,
    name: str,
    block_name: str,
    number: int,
    transformer_index: int | None = None,
) -> None:
    options.set_model_options_patch_replace(
        patcher.model_options, patch, name, block_name, number, transformer_index
    )


def set_model_attn1_replace(
    patcher: HasOptions, patch: Any, block_name: str, number: int, transformer_index: int | None = None
) -> None:
    set_model_patch_replace(patcher, patch, "attn1", block_name, number, transformer_index)


def set_model_attn2_replace(
    patcher: HasOptions, patch: Any, block_name: str, number: int, transformer_index: int | None = None
) -> None:
    set_model_patch_replace(patcher, patch, "attn2", block_name, number, transformer_index)


def set_model_optimized_attention(patcher: HasOptions, optimized_attention: Callable[..., Any]) -> None:
    """Compute all attention by this function."""
    patcher.model_options["transformer_options"]["optimized_attention_override"] = lambda _, *args, **kwargs: (
        optimized_attention(*args, **kwargs)
    )


def model_patches_to(patcher: HasOptions, where: torch.device | torch.dtype | None) -> None:
    """Move what the patches hold, those that have a `to`, to a device or dtype."""
    options.replace_model_patches(
        patcher.model_options, lambda patch: patch.to(where) if hasattr(patch, "to") else patch
    )


def model_patches_models(patcher: HasOptions) -> list[Any]:
    """The models that patches bring along (their `models()`); they are loaded with this one."""
    return [
        model
        for patch in options.model_patches(patcher.model_options)
        if hasattr(patch, "models")
        for model in patch.models()
    ]


def model_patches_call_function(
    patcher: HasOptions, function_name: str = "cleanup", arguments: Mapping[str, Any] | None = None
) -> None:
    """Call a method of every patch that has it."""
    for patch in options.model_patches(patcher.model_options):
        if hasattr(patch, function_name):
            getattr(patch, function_name)(**(arguments or {}))
