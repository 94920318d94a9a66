"""What is done once before a run with the conditionings of a guider, and after it.

A conditioning comes as `[tensor, options]` and becomes a dict of the options with `cross_attn`, the tensor, and
`model_conds`, the values that the model is given.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from comfyk_core_nodes.images.batch import repeat_to_batch
from comfyk_core_nodes.memory.extensions import wrapped
from comfyk_core_nodes.memory.manager import load_models_gpu
from comfyk_core_nodes.sampling.regions import Cond, add_opposite_areas, resolve_areas

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}
_LATENT_PIXELS = 8


def convert_cond(conditioning: Sequence[Sequence[Any]]) -> list[Cond]:
    """`[tensor, options]` entries as dicts, each with an id of its own."""
    converted = []
    for tensor, options in conditioning:
        cond = {**options, "model_conds": dict(options.get("model_conds", {})), "uuid": uuid.uuid4()}
        if tensor is not None:
            cond["cross_attn"] = tensor
        converted.append(cond)
    return converted


def to_model_scale(model: Any, latent: Tensor) -> Tensor:
    """A latent in the scale that the model has. An empty one stands for no picture, in whatever scale."""
    return model.process_latent_in(latent) if torch.count_nonzero(latent) > 0 else latent


def process_conds(
    model: Any,
    noise: Tensor,
    conds: Mapping[str, Sequence[Cond]],
    device: torch.device,
    latent_image: Tensor | None = None,
    denoise_mask: Tensor | None = None,
    seed: int | None = None,
    **more: Any,
) -> dict[str, list[Cond]]:
    """Conditionings by kind (`positive`, `negative` ...) made ready for a run on latents like `noise`.

    Areas and masks are resolved, ranges become sigmas, `model.extra_conds` gives the values, areas get their opposites,
    and controls their `pre_run`. Of `positive`, GLIGEN and controls that say so are also put on the other kinds.
    """
    ready: dict[str, list[Cond]] = {}
    for kind, entries in conds.items():
        resolved = resolve_areas(entries, noise.shape[2:], device)
        for cond in resolved:
            _set_timesteps(cond, model.model_sampling)
            known = {
                "device": device,
                "noise": noise,
                "width": noise.shape[3] * _LATENT_PIXELS if noise.ndim >= 4 else None,
                "height": noise.shape[2] * _LATENT_PIXELS,
                "prompt_type": kind,
                "latent_image": latent_image,
                "denoise_mask": denoise_mask,
                "seed": seed,
                **more,
            }
            values = model.extra_conds(**{**known, **cond, "device": device, "noise": noise})
            cond["model_conds"] = {**cond["model_conds"], **values}
        ready[kind] = resolved
    add_opposite_areas(ready)
    for control in _of_all(ready, "control"):
        control.pre_run(model, model.model_sampling.percent_to_sigma)
    positive = ready.get("positive", [])
    controlled = [cond for cond in positive if cond.get("control_apply_to_uncond", False)]
    for kind, entries in ready.items():
        if kind != "positive":
            _copy_to_uncond(controlled, entries, "control")
            _copy_to_uncond(positive, entries, "gligen")
    return ready


def _set_timesteps(cond: Cond, sampling: Any) -> None:
    start, end = cond.get("start_percent"), cond.get("end_percent")
    if "clip_start_percent" in cond:
        start = max(cond["clip_start_percent"], start or 0.0)
        end = min(cond["clip_end_percent"], 1.0 if end is None else end)
    if start is not None:
        cond["timestep_start"] = sampling.percent_to_sigma(start)
    if end is not None:
        cond["timestep_end"] = sampling.percent_to_sigma(end)


def _copy_to_uncond(positive: Sequence[Cond], others: list[Cond], name: str) -> None:
    """Put what positive entries without an area have under `name` on others without an area, one after the other.

    With fewer of those the last ones stay. Nothing is done when one of them has it already.
    """
    found = [cond[name] for cond in positive if "area" not in cond and cond.get(name) is not None]
    free = [position for position, cond in enumerate(others) if "area" not in cond]
    if not free or any(others[position].get(name) is not None for position in free):
        return
    for number, value in enumerate(found):
        position = free[number % len(free)]
        others[position] = {**others[position], name: value}


def _of_all(conds: Mapping[str, Sequence[Cond]], name: str) -> list[Any]:
    """What the entries have under `name`, each once, in order."""
    found = [cond[name] for entries in conds.values() for cond in entries if cond.get(name) is not None]
    return list({id(value): value for value in found}.values())


def additional_models(conds: Mapping[str, Sequence[Cond]], dtype: torch.dtype) -> tuple[list[Any], int]:
    """The other models of a run (ControlNets, GLIGEN), and the bytes that they compute with."""
    controls = _of_all(conds, "control")
    models = [model for control in controls for model in control.get_models()]
    models += [gligen[1] for gligen in _of_all(conds, "gligen")]
    for more in _of_all(conds, "additional_models"):
        models += more if isinstance(more, list) else [more]
    memory = sum(control.inference_memory_requirements(dtype) for control in controls)
    return list(dict.fromkeys(models)), memory


def prepare_sampling(
    patcher: Any, noise_shape: Sequence[int], conds: dict[str, list[Cond]], model_options: Mapping[str, Any]
) -> tuple[Any, dict[str, list[Cond]], list[Any]]:
    """Load what a run on noise of this shape needs. Returns the model, the conditionings and the other models."""
    load = wrapped("prepare_sampling", model_options.get("transformer_options"), _prepare_sampling)
    return load(
        patcher, noise_shape, conds, model_options=model_options, force_full_load=False, force_offload=False
    )


def _prepare_sampling(
    patcher: Any, noise_shape: Sequence[int], conds: dict[str, list[Cond]], **_: Any
) -> tuple[Any, dict[str, list[Cond]], list[Any]]:
    others, memory = additional_models(conds, patcher.model_dtype())
    items, *rest = noise_shape
    load_models_gpu(
        [patcher, *others],
        memory_required=int(memory + patcher.model.memory_required([items * 2, *rest])),
        minimum_memory_required=int(memory + patcher.model.memory_required([items, *rest])),
    )
    return patcher.model, conds, others


def clean_up(conds: Mapping[str, Sequence[Cond]], models: Sequence[Any]) -> None:
    """Let controls, and models that can, give up what they kept for a run."""
    for holder in [*models, *_of_all(conds, "control")]:
        if hasattr(holder, "cleanup"):
            holder.cleanup()


def prepare_mask(mask: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    """A mask of what is to change, `[H, W]` or `[B, H, W]` of any size, as float `[B, C, ...]` like the latent."""
    dims = len(shape) - 2
    if dims == 2:
        mask = mask.reshape(-1, 1, *mask.shape[-2:])
    elif dims == 3 and mask.ndim < 5:
        mask = mask.reshape(1, 1, -1, *mask.shape[-2:])
    mask = torch.nn.functional.interpolate(mask.float(), size=tuple(shape[2:]), mode=_INTERPOLATION[dims])
    if mask.shape[1] < shape[1]:
        mask = mask.repeat(1, shape[1], *[1] * dims)[:, : shape[1]]
    return repeat_to_batch(mask, shape[0]).to(device)
