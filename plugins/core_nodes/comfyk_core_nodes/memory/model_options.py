"""Model options: what nodes set on a clone to change how a model is run, as nested dicts and lists.

`model_options["transformer_options"]["patches"][name]` are lists of functions that the network calls at the point
`name`, `["patches_replace"][name][block]` functions that it calls instead of an attention layer. The other keys are
read by the sampler: `sampler_cfg_function`, `sampler_pre_cfg_function`, `sampler_post_cfg_function`,
`model_function_wrapper`, `denoise_mask_function`, `sampler_calc_cond_batch_function`, `disable_cfg1_optimization`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

ModelOptions = dict[str, Any]


def copy_model_options(options: Any) -> Any:
    """Copy the dicts and lists, however deep; what they hold is shared."""
    if isinstance(options, dict):
        return {key: copy_model_options(value) for key, value in options.items()}
    if isinstance(options, list):
        return [copy_model_options(value) for value in options]
    return options


def set_model_options_patch_replace(
    model_options: ModelOptions,
    patch: Any,
    name: str,
    block_name: str,
    number: int,
    transformer_index: int | None = None,
) -> ModelOptions:
    """Run `patch` instead of the attention `name` ("attn1", "attn2") of a block.

    A block is `("input" | "middle" | "output", number)`, or with the index of a transformer in it a triple. The
    dicts on the way are copied, so that options which share them are not changed. Returns `model_options`.
    """
    block = (block_name, number) if transformer_index is None else (block_name, number, transformer_index)
    options = dict(model_options["transformer_options"])
    replace = {key: dict(blocks) for key, blocks in options.get("patches_replace", {}).items()}
    replace.setdefault(name, {})[block] = patch
    options["patches_replace"] = replace
    model_options["transformer_options"] = options
    return model_options


def set_model_options_post_cfg_function(
    model_options: ModelOptions,
    post_cfg_function: Callable[..., Any],
    disable_cfg1_optimization: bool = False,
) -> ModelOptions:
    """Have the sampler call this after it has put cond and uncond together. Returns `model_options`."""
    return _append(model_options, "sampler_post_cfg_function", post_cfg_function, disable_cfg1_optimization)


def set_model_options_pre_cfg_function(
    model_options: ModelOptions, pre_cfg_function: Callable[..., Any], disable_cfg1_optimization: bool = False
) -> ModelOptions:
    """Have the sampler call this before it puts cond and uncond together. Returns `model_options`."""
    return _append(model_options, "sampler_pre_cfg_function", pre_cfg_function, disable_cfg1_optimization)


def _append(
    options: ModelOptions, key: str, function: Callable[..., Any], disable_cfg1_optimization: bool
) -> ModelOptions:
    options[key] = [*options.get(key, []), function]
    if disable_cfg1_optimization:
        options["disable_cfg1_optimization"] = True
    return options


def model_patches(options: ModelOptions) -> Iterator[Any]:
    """The functions and objects that were set as patches of the network, and the function wrapper."""
    transformer = options["transformer_options"]
    for patches in transformer.get("patches", {}).values():
        yield from patches
    for blocks in transformer.get("patches_replace", {}).values():
        yield from blocks.values()
    if "model_function_wrapper" in options:
        yield options["model_function_wrapper"]


def replace_model_patches(options: ModelOptions, change: Callable[[Any], Any]) -> None:
    """Put `change(patch)` in place of each patch that `model_patches` gives."""
    transformer = options["transformer_options"]
    for patches in transformer.get("patches", {}).values():
        patches[:] = [change(patch) for patch in patches]
    for blocks in transformer.get("patches_replace", {}).values():
        for block in blocks:
            blocks[block] = change(blocks[block])
    if "model_function_wrapper" in options:
        options["model_function_wrapper"] = change(options["model_function_wrapper"])
