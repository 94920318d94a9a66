"""What node packs put around parts of a run, and what they are called back for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfyk.context
import pytest
import torch
from comfyk_core_nodes.memory.extensions import Wrapped
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.sampling.guidance import CFGGuider
from comfyk_core_nodes.sampling.run import KSAMPLER, ksampler
from torch import Tensor

from .recipes import PICTURE, text, wave

LATENT = PICTURE["samples"][:1]
SIGMAS = torch.tensor([7.0, 2.0, 0.0])


def run(model: ModelPatcher, sampler: Any = None, **options: Any) -> Tensor:
    guider = CFGGuider(model)
    guider.set_conds([[text(1.0), {}]], [[text(-2.0), {}]])
    guider.set_cfg(4.0)
    noise = wave(*LATENT.shape, start=9.0)
    return guider.sample(noise, LATENT, sampler or ksampler("euler"), SIGMAS, seed=5, **options)


class Watch:
    """A wrapper that notes what it is around, and its arguments."""

    def __init__(self, log: list[str], name: str = "") -> None:
        self.log, self.name = log, name
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, executor: Wrapped, *args: Any, **kwargs: Any) -> Any:
        self.log.append(f"{self.name} in")
        self.calls.append((executor.class_obj, args, kwargs))
        result = executor(*args, **kwargs)
        self.log.append(f"{self.name} out")
        return result


KINDS = (
    "outer_sample",
    "prepare_sampling",
    "sampler_sample",
    "predict_noise",
    "calc_cond_batch",
    "apply_model",
    "diffusion_model",
)


def test_each_kind_is_called_where_it_belongs(unet_model: ModelPatcher) -> None:
    plain = run(unet_model)
    clone = unet_model.clone()
    log: list[str] = []
    watches = {kind: Watch(log, kind) for kind in KINDS}
    for kind, watch in watches.items():
        clone.add_wrapper(kind, watch)
    assert run(clone).equal(plain)

    network = [f"{kind} in" for kind in KINDS[3:]] + [f"{kind} out" for kind in reversed(KINDS[3:])]
    assert log == [
        "outer_sample in",
        "prepare_sampling in",
        "prepare_sampling out",
        "sampler_sample in",
        *network,
        *network,
        "sampler_sample out",
        "outer_sample out",
    ]


def test_what_each_kind_is_given(unet_model: ModelPatcher) -> None:
    clone = unet_model.clone()
    watches = {kind: Watch([]) for kind in KINDS}
    for kind, watch in watches.items():
        clone.add_wrapper_with_key(kind, "pack", watch)
    sampler = ksampler("euler")
    run(clone, sampler, callback=print, disable_pbar=True)
    first = {kind: watch.calls[0] for kind, watch in watches.items()}
    model = unet_model.model

    guider, args, kwargs = first["outer_sample"]
    assert isinstance(guider, CFGGuider)
    assert args[1] is LATENT and args[2] is sampler and args[3] is SIGMAS
    assert args[4:] == (None, print, True, 5)
    assert kwargs == {"latent_shapes": [LATENT.shape]}

    owner, (patcher, shape, conds), kwargs = first["prepare_sampling"]
    assert owner is None and patcher is clone and shape == LATENT.shape
    assert conds.keys() == {"positive", "negative"}
    assert kwargs.keys() == {"model_options", "force_full_load", "force_offload"}

    owner, args, kwargs = first["sampler_sample"]
    assert owner is sampler and args[0] is guider and args[1].equal(SIGMAS)
    assert args[2]["seed"] == 5 and args[2]["model_options"]["transformer_options"]["sample_sigmas"].equal(
        SIGMAS
    )
    assert args[3] is print and args[6:] == (None, True) and not kwargs

    owner, (x, sigma, options, seed), kwargs = first["predict_noise"]
    assert owner is guider and x.shape == LATENT.shape and sigma.tolist() == [7.0] and seed == 5
    assert "wrappers" in options["transformer_options"]

    owner, (network, sets, x, sigma, options), kwargs = first["calc_cond_batch"]
    assert owner is None and network is model and len(sets) == 2 and sigma.tolist() == [7.0]

    owner, (x, sigma, concat, context, control, options), kwargs = first["apply_model"]
    assert owner is model and x.shape[0] == 2 and sigma.tolist() == [7.0, 7.0]
    assert concat is None and control is None and context.shape == (2, 77, 64)
    assert options["cond_or_uncond"] == [1, 0]

    owner, (x, timesteps, context, y, control, options), kwargs = first["diffusion_model"]
    assert owner is model.diffusion_model and y is None and control is None
    assert timesteps[0] > 100 and options["cond_or_uncond"] == [1, 0]


@pytest.mark.parametrize("kind", KINDS[2:])
def test_a_wrapper_may_change_what_comes_out(kind: str, unet_model: ModelPatcher) -> None:
    clone = unet_model.clone()

    def halve(executor: Wrapped, *args: Any, **kwargs: Any) -> Any:
        out = executor(*args, **kwargs)
        return [each / 2 for each in out] if isinstance(out, list) else out / 2

    clone.add_wrapper(kind, halve)
    assert not run(clone).equal(run(unet_model))


def test_a_wrapper_may_leave_out_what_is_inside(model: ModelPatcher) -> None:
    clone = model.clone()
    clone.add_wrapper("outer_sample", lambda executor, noise, *args, **kwargs: noise + 1)
    assert run(clone).equal(wave(*LATENT.shape, start=9.0) + 1)


def test_those_in_the_options_go_around_those_of_the_patcher(model: ModelPatcher) -> None:
    log: list[str] = []
    clone = model.clone()
    clone.add_wrapper("outer_sample", Watch(log, "patcher"))
    clone.add_wrapper_with_key("outer_sample", "pack", Watch(log, "keyed"))
    options = clone.model_options["transformer_options"]
    options["wrappers"] = {"outer_sample": {None: [Watch(log, "options")]}}
    run(clone)
    assert log[:3] == ["options in", "patcher in", "keyed in"]
    # A run leaves the options as they were.
    assert len(options["wrappers"]["outer_sample"][None]) == 1
    log.clear()
    clone.remove_wrappers_with_key("outer_sample", "pack")
    run(clone)
    assert log[:2] == ["options in", "patcher in"] and "keyed in" not in log


def test_callbacks_of_a_run(model: ModelPatcher) -> None:
    heard: list[str] = []
    clone = model.clone()

    def hear(name: str) -> Callable[..., None]:
        def callback(patcher: ModelPatcher, *more: Any) -> None:
            known = getattr(patcher.model, "current_patcher", None)
            heard.append(f"{name} {'known' if known is patcher else 'unknown'} {len(more)}")

        return callback

    for name in ("on_load_after", "on_pre_run", "on_prepare_state", "on_cleanup"):
        clone.add_callback(name, hear(name))
    run(clone)
    assert heard == [
        "on_load_after unknown 4",
        "on_pre_run known 0",
        "on_prepare_state known 2",
        "on_prepare_state known 2",
        "on_cleanup unknown 0",
    ]


def test_before_each_evaluation_the_level_is_told(model: ModelPatcher) -> None:
    told: list[list[float]] = []
    clone = model.clone()
    clone.add_callback_with_key(
        "on_prepare_state", "pack", lambda patcher, sigmas, options: told.append(sigmas.tolist())
    )
    run(clone)
    assert told == [[7.0], [2.0]]
    clone.remove_callbacks_with_key("on_prepare_state", "pack")
    run(clone)
    assert len(told) == 2


def test_patches_and_callbacks_are_cleaned_up_after_a_failure_too(model: ModelPatcher) -> None:
    class Patch:
        cleaned = 0

        def cleanup(self) -> None:
            self.cleaned += 1

        def __call__(self, apply_model: Any, args: dict[str, Any]) -> Tensor:
            raise comfyk.context.Interrupted

    patch, ended = Patch(), []
    clone = model.clone()
    clone.set_model_unet_function_wrapper(patch)
    clone.add_callback("on_cleanup", ended.append)
    with pytest.raises(comfyk.context.Interrupted):
        run(clone)
    assert patch.cleaned == 1 and ended == [clone]
    assert model.model.current_patcher is None


def test_both_models_of_a_guider_are_called_back(out: Any, model: ModelPatcher, second: ModelPatcher) -> None:
    heard: list[ModelPatcher] = []
    clones = [model.clone(), second.clone()]
    for clone in clones:
        for name in ("on_pre_run", "on_cleanup"):
            clone.add_callback(name, heard.append)
    guider = out(
        "DualModelGuider",
        model=clones[0],
        positive=[[text(1.0), {}]],
        cfg=4.0,
        model_negative=clones[1],
        negative=[[text(-2.0), {}]],
    )
    guider.sample(wave(*LATENT.shape), LATENT, ksampler("euler"), SIGMAS)
    assert heard == [clones[1], clones[0], clones[0], clones[1]]


def test_extensions_that_hold_tensors_are_moved_to_the_run(model: ModelPatcher) -> None:
    class Extension(Watch):
        places: list[Any]

        def to(self, place: Any) -> Extension:
            self.places = [*getattr(self, "places", []), place]
            return self

    extension = Extension([])
    clone = model.clone()
    clone.add_wrapper("apply_model", extension)
    run(clone)
    cpu = torch.device("cpu")
    assert extension.places == [cpu, torch.float32, cpu]


def test_a_guider_of_ones_own(model: ModelPatcher) -> None:
    class Guider(CFGGuider):
        def predict_noise(self, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return torch.zeros_like(x)

        def inner_sample(self, *args: Any, **kwargs: Any) -> Tensor:
            return super().inner_sample(*args, **kwargs) + 1

    guider = Guider(model)
    guider.set_conds([[text(1.0), {}]], [[text(-2.0), {}]])
    latent = guider.sample(wave(*LATENT.shape), LATENT, KSAMPLER(ksampler("euler").sampler_function), SIGMAS)
    assert latent.equal(torch.ones_like(latent))
