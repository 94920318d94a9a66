"""What nodes do to a conditioning: a new list each time, the tensors and options of the old one left as they are.

A conditioning is a list of `[prompt, options]`; a prompt is `[1, T, D]` or None. Areas and sizes in pixels are kept in
latent units of 8 pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from comfyk_core_nodes.sampling.conditioning import Conditioning, NewConditioning, conditioning_set_values

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

_LATENT_PIXELS = 8
_RANGE_GAP = 1e-5
"""Between two timestep ranges that follow each other: both bounds of a range belong to it."""


def combine(first: Conditioning, second: Conditioning) -> list[Any]:
    """Both: each is computed, and their results are averaged."""
    return [*first, *second]


def _only(conditioning: Conditioning, what: str) -> tuple[Any, Mapping[str, Any]]:
    if len(conditioning) > 1:
        log.warning("%s uses the first entry of its second conditioning, not the others", what)
    prompt, options = conditioning[0]
    return prompt, options


def _same_width(first: Tensor, second: Tensor, what: str, kind: str) -> None:
    if first.shape[-1] != second.shape[-1]:
        from comfyk_core_nodes.families.registry import describe_prompt

        one, other = (describe_prompt(part.shape[-1]) for part in (first, second))
        raise ValueError(
            f"{what} joins conditionings of one family of models: the {kind} of the first has "
            f"{one}, that of the second {other}; encode both with the same CLIP"
        )


def average(to: Conditioning, source: Conditioning, strength: float) -> NewConditioning:
    """Each entry of `to` with weight `strength`, and the first of `source` with the rest.

    A shorter prompt of `source` is filled with zeros, a longer one cut. Pooled outputs are averaged alike.
    Raises ValueError where the two are of different families of models.
    """
    import torch

    other, other_options = _only(source, "ConditioningAverage")
    other_pooled = other_options.get("pooled_output")
    averaged = []
    for prompt, options in to:
        _same_width(prompt, other, "ConditioningAverage", "prompt")
        options = dict(options)
        fitted = other[:, : prompt.shape[1]]
        fitted = torch.nn.functional.pad(fitted, (0, 0, 0, prompt.shape[1] - fitted.shape[1]))
        if other_pooled is not None:
            pooled = options.get("pooled_output")
            pooled = other_pooled if pooled is None else pooled
            _same_width(pooled, other_pooled, "ConditioningAverage", "pooled output")
            options["pooled_output"] = pooled * strength + other_pooled * (1.0 - strength)
        averaged.append([prompt * strength + fitted * (1.0 - strength), options])
    return averaged


def concat(to: Conditioning, source: Conditioning) -> NewConditioning:
    """Each prompt of `to` followed by the first of `source`: `[1, T1 + T2, D]`.

    Raises ValueError where the two are of different families of models.
    """
    import torch

    other, _ = _only(source, "ConditioningConcat")
    for prompt, _ in to:
        _same_width(prompt, other, "ConditioningConcat", "prompt")
    return [[torch.cat((prompt, other), 1), dict(options)] for prompt, options in to]


def multiply(conditioning: Conditioning, factor: float) -> NewConditioning:
    """Prompts and pooled outputs times `factor`."""
    multiplied = []
    for prompt, options in conditioning:
        options = dict(options)
        if options.get("pooled_output") is not None:
            options["pooled_output"] = options["pooled_output"] * factor
        multiplied.append([prompt * factor, options])
    return multiplied


def zero_out(conditioning: Conditioning) -> NewConditioning:
    """Zeros in place of prompts, pooled outputs, and lyrics and scales where there are such."""
    import torch

    zeroed = []
    for prompt, options in conditioning:
        options = dict(options)
        for key in ("pooled_output", "conditioning_lyrics", "conditioning_scale"):
            if options.get(key) is not None:
                options[key] = torch.zeros_like(options[key])
        zeroed.append([torch.zeros_like(prompt), options])
    return zeroed


def set_area(
    conditioning: Conditioning, width: int, height: int, x: int, y: int, strength: float
) -> NewConditioning:
    """Only within these pixels."""
    area = tuple(pixels // _LATENT_PIXELS for pixels in (height, width, y, x))
    return _set_area(conditioning, area, strength)


def set_area_percentage(
    conditioning: Conditioning, width: float, height: float, x: float, y: float, strength: float
) -> NewConditioning:
    """Only within these shares, 0 to 1, of the picture."""
    return _set_area(conditioning, ("percentage", height, width, y, x), strength)


def _set_area(conditioning: Conditioning, area: tuple[Any, ...], strength: float) -> NewConditioning:
    values = {"area": area, "strength": strength, "set_area_to_bounds": False}
    return conditioning_set_values(conditioning, values)


def set_strength(conditioning: Conditioning, strength: float) -> NewConditioning:
    """The weight against others at the same place."""
    return conditioning_set_values(conditioning, {"strength": strength})


def set_mask(
    conditioning: Conditioning, mask: Tensor, strength: float, bounds: bool = False
) -> NewConditioning:
    """With the weight of `mask`, `[H, W]` or `[B, H, W]`, at each place.

    With `bounds` only the mask's bounding box is computed.
    """
    values = {
        "mask": mask.unsqueeze(0) if mask.ndim < 3 else mask,
        "set_area_to_bounds": bounds,
        "mask_strength": strength,
    }
    return conditioning_set_values(conditioning, values)


def set_timestep_range(conditioning: Conditioning, start: float, end: float) -> NewConditioning:
    """Only from the share `start` of a run to the share `end`, 0 to 1."""
    return conditioning_set_values(conditioning, {"start_percent": start, "end_percent": end})


def set_values_in_range(
    conditioning: Conditioning, values: Mapping[str, Any], start: float, end: float
) -> list[Any]:
    """Set options from the share `start` of a run to `end`, and leave the entries as they are before and after.

    An entry that has a range of its own keeps to it.
    """
    edited: list[Any] = []
    for entry in conditioning:
        own_start, own_end = entry[1].get("start_percent", 0.0), entry[1].get("end_percent", 1.0)
        first, last = max(start, own_start), min(end, own_end)
        if first >= last:
            edited.append(entry)
            continue
        if first > own_start:
            edited += set_timestep_range([entry], own_start, first - _RANGE_GAP)
        edited += set_timestep_range(conditioning_set_values([entry], values), first, last)
        if last < own_end:
            edited += set_timestep_range([entry], last + _RANGE_GAP, own_end)
    return edited


def add_unclip(
    conditioning: Conditioning, clip_vision_output: Any, strength: float, noise_augmentation: float
) -> Conditioning:
    """A picture for unCLIP models, next to those that are there. At strength 0 nothing changes."""
    if strength == 0:
        return conditioning
    picture = {
        "clip_vision_output": clip_vision_output,
        "strength": strength,
        "noise_augmentation": noise_augmentation,
    }
    return conditioning_set_values(conditioning, {"unclip_conditioning": [picture]}, append=True)


def add_gligen_box(
    conditioning: Conditioning, model: Any, embedding: Tensor, width: int, height: int, x: int, y: int
) -> NewConditioning:
    """A text for GLIGEN to draw within these pixels, next to those that are there.

    `embedding` is the text's pooled output before its projection.
    """
    box = (embedding, *(pixels // _LATENT_PIXELS for pixels in (height, width, y, x)))
    edited = []
    for prompt, options in conditioning:
        boxes = [*options["gligen"][2], box] if "gligen" in options else [box]
        edited.append([prompt, {**options, "gligen": ("position", model, boxes)}])
    return edited


def apply_controlnet(
    conditionings: Sequence[Conditioning],
    control_net: Any,
    image: Tensor,
    strength: float,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    apply_to_uncond: bool = False,
    **hint_options: Any,
) -> list[Conditioning]:
    """A ControlNet with the picture `image`, `[B, H, W, C]`, on all entries, chained after those that are there.

    Entries that had the same control share the new one, so that it runs once for both halves of guidance. With
    `apply_to_uncond` negative entries that have no control get it too. `hint_options` go to `set_cond_hint`. At
    strength 0 nothing changes.
    """
    if strength == 0:
        return list(conditionings)
    hint = image.movedim(-1, 1)
    made: dict[Any, Any] = {}
    results: list[Conditioning] = []
    for conditioning in conditionings:
        edited = []
        for prompt, options in conditioning:
            previous = options.get("control")
            if previous not in made:
                control = control_net.copy().set_cond_hint(
                    hint, strength, (start_percent, end_percent), **hint_options
                )
                control.set_previous_controlnet(previous)
                made[previous] = control
            edited.append(
                [prompt, {**options, "control": made[previous], "control_apply_to_uncond": apply_to_uncond}]
            )
        results.append(edited)
    return results
