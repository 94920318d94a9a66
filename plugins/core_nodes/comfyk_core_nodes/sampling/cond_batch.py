"""Running the model for several conditionings at one level: as many at once as memory allows, results put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfyk
import torch
from torch import Tensor

from comfyk_core_nodes.devices.device import device_of
from comfyk_core_nodes.memory.extensions import wrapped
from comfyk_core_nodes.sampling.conds import CONDRegular, cut_area
from comfyk_core_nodes.sampling.regions import Cond, Part, part_of

_NOTHING = 1e-37
"""Weight of a place that no conditioning is for: the result is 0 there, not NaN."""
_SAFETY = 1.5
"""How much of the memory that is thought to be needed must be free for a larger batch."""


def calc_cond_batch(
    model: Any,
    conds: Sequence[Sequence[Cond] | None],
    x_in: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
) -> list[Tensor]:
    """The denoised latents, `[B, C, ...]` each, for several sets of conditionings (guidance: positive, negative).

    `x_in` is noisy at `timestep`, `[B]`, a sigma. A set that is None or empty gives zeros. Where the parts of a set
    overlap, they are averaged by weight; its `default` ones fill what the others leave.
    Raises `comfyk.context.Interrupted` before a forward pass when the job was asked to stop.
    """
    calculate = wrapped("calc_cond_batch", model_options.get("transformer_options"), _calc)
    handler = model_options.get("context_handler")
    if handler is not None and handler.should_use_context(model, conds, x_in, timestep, model_options):
        return handler.execute(calculate, model, conds, x_in, timestep, model_options)
    return calculate(model, conds, x_in, timestep, model_options)


def _calc(
    model: Any,
    conds: Sequence[Sequence[Cond] | None],
    x_in: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
) -> list[Tensor]:
    to_run: list[tuple[Part, int]] = []
    defaults: list[tuple[Cond, int]] = []
    for index, entries in enumerate(conds):
        for cond in entries or ():
            if "default" in cond:
                defaults.append((cond, index))
            elif (part := part_of(cond, x_in, timestep)) is not None:
                to_run.append((part, index))
    to_run += _default_parts(defaults, to_run, x_in, timestep)
    patcher = getattr(model, "current_patcher", None)
    if patcher is not None:
        patcher.prepare_state(timestep, model_options)

    sums = [torch.zeros_like(x_in) for _ in conds]
    weights = [torch.full_like(x_in, _NOTHING) for _ in conds]
    while to_run:
        batch = _take_batch(model, to_run)
        outputs = _run_batch(model, batch, timestep, model_options)
        for (part, index), output in zip(batch, outputs, strict=True):
            cut_area(sums[index], part.area).add_(output * part.mult)
            cut_area(weights[index], part.area).add_(part.mult)
    return [total.div_(weight) for total, weight in zip(sums, weights, strict=True)]


def _default_parts(
    defaults: Sequence[tuple[Cond, int]], others: Sequence[tuple[Part, int]], x: Tensor, timestep: Tensor
) -> list[tuple[Part, int]]:
    """The default conditionings, with what weight the others leave at each place."""
    parts = []
    left: dict[int, Tensor] = {}
    for cond, index in defaults:
        if index not in left:
            left[index] = torch.ones_like(x)
            for part, other_index in others:
                if other_index == index:
                    cut_area(left[index], part.area).sub_(part.mult)
            left[index].clamp_(min=0)
        part = part_of(cond, x, timestep)
        if part is not None and left[index].any():
            part.mult = cut_area(left[index], part.area)
            parts.append((part, index))
    return parts


def _fits(part: Part, other: Part) -> bool:
    """Whether the model can run for both at once."""
    return (
        part.input_x.shape == other.input_x.shape
        and part.control is other.control
        and part.patches is other.patches
        and part.conditioning.keys() == other.conditioning.keys()
        and all(value.can_concat(other.conditioning[name]) for name, value in part.conditioning.items())
    )


def _take_batch(model: Any, to_run: list[tuple[Part, int]]) -> list[tuple[Part, int]]:
    """Take the parts out of `to_run` that are to run at once with the first: all that fit, or as many as memory allows.

    They come out last first, so negative before positive, which is what third-party nodes expect.
    """
    first = to_run[0][0]
    fitting = [position for position, (part, _) in enumerate(to_run) if _fits(part, first)][::-1]
    count = len(fitting)
    if count > 1:
        free = device_of(first.input_x.device).free()
        items, *rest = first.input_x.shape
        while count > 1 and model.memory_required([count * items, *rest]) * _SAFETY >= free:
            count -= 1
    return [to_run.pop(position) for position in fitting[:count]]


def _run_batch(
    model: Any, batch: Sequence[tuple[Part, int]], timestep: Tensor, model_options: Mapping[str, Any]
) -> Sequence[Tensor]:
    """One forward pass. Returns the result of each part."""
    comfyk.check_interrupted()
    parts = [part for part, _ in batch]
    indexes = [index for _, index in batch]
    x = torch.cat([part.input_x for part in parts])
    timesteps = torch.cat([timestep] * len(parts))
    values: dict[str, Any] = _join([part.conditioning for part in parts])
    options = _transformer_options(model_options, parts[0].patches)
    options["cond_or_uncond"] = indexes
    options["uuids"] = [part.uuid for part in parts]
    options["sigmas"] = timestep
    values["transformer_options"] = options
    control = parts[0].control
    if control is not None:
        values["control"] = control.get_control(x, timesteps, values, len(parts), options)
    wrapper = model_options.get("model_function_wrapper")
    if wrapper is None:
        output = model.apply_model(x, timesteps, **values)
    else:
        arguments = {"input": x, "timestep": timesteps, "c": values, "cond_or_uncond": list(indexes)}
        output = wrapper(model.apply_model, arguments)
    return output.chunk(len(parts))


def _join(conditionings: Sequence[Mapping[str, CONDRegular]]) -> dict[str, Any]:
    first, *others = conditionings
    return {name: value.concat([other[name] for other in others]) for name, value in first.items()}


def _transformer_options(
    model_options: Mapping[str, Any], patches: dict[str, list[Any]] | None
) -> dict[str, Any]:
    """A copy of the options that the network gets, with the patches of a conditioning after the others."""
    options = copy_options(model_options.get("transformer_options", {}))
    if patches is not None:
        merged = options.setdefault("patches", {})
        for name, added in patches.items():
            merged[name] = [*merged.get(name, []), *added]
    return options


def copy_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested dicts and of the lists in them; what they hold is shared."""
    copied: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, dict):
            copied[key] = copy_options(value)
        else:
            copied[key] = value.copy() if isinstance(value, list) else value
    return copied
