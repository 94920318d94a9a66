"""Controls and GLIGEN through whole runs of a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk_core_nodes.conditioning.edit import apply_controlnet
from comfyk_core_nodes.control.base import ControlBase
from comfyk_core_nodes.control.gligen import load_gligen
from comfyk_core_nodes.control.load import load_controlnet
from comfyk_core_nodes.sampling.run import sample
from diffusers import ControlNetModel, T2IAdapter
from torch import Tensor

from .conftest import TEXT, close, randomise
from .test_gligen import boxes_state

Run = Callable[..., Tensor]


@pytest.fixture
def run(model: Any, draw: Callable[..., Tensor]) -> Run:
    """`run(positive, negative)`: the latent after three steps."""

    def call(positive: Any, negative: Any) -> Tensor:
        latent = torch.zeros(2, 4, 8, 8)
        noise = draw(2, 4, 8, 8, seed=7)
        return sample(model, noise, 3, 4.0, "euler", "normal", positive, negative, latent, seed=7)

    return call


@pytest.fixture
def prompts(draw: Callable[..., Tensor]) -> list[Any]:
    return [[[draw(1, 5, TEXT, seed=seed), {}]] for seed in (1, 2)]


@pytest.fixture
def control(sd1_control: ControlNetModel, save: Callable[..., Path]) -> ControlBase:
    return load_controlnet(save(sd1_control.state_dict()))


def test_a_run_is_the_same_each_time_and_not_that_without(
    run: Run, prompts: list[Any], control: ControlBase, draw: Callable[..., Tensor]
) -> None:
    plain = run(*prompts)
    image = draw(2, 64, 64, 3).sigmoid()
    controlled = apply_controlnet(prompts, control, image, 0.5)
    first = run(*controlled)
    assert first.isfinite().all() and not close(first, plain, 1e-2)
    assert torch.equal(run(*controlled), first)
    held = controlled[0][0][1]["control"]
    assert held.cond_hint is None and held.timestep_range is None
    assert torch.equal(run(*prompts), plain)
    assert torch.equal(run(*apply_controlnet(prompts, control, image, 0.0)), plain)


def test_ranges_cut_a_run_in_two(
    run: Run, prompts: list[Any], control: ControlBase, draw: Callable[..., Tensor]
) -> None:
    image = draw(1, 64, 64, 3).sigmoid()
    whole = run(*apply_controlnet(prompts, control, image, 0.5))
    halves = apply_controlnet(prompts, control, image, 0.5, 0.0, 0.4)
    assert not close(run(*halves), whole, 1e-5)
    halves = apply_controlnet(halves, control, image, 0.5, 0.4, 1.0)
    assert close(run(*halves), whole, 1e-6)


def test_a_control_for_both_halves_of_guidance(
    run: Run, prompts: list[Any], control: ControlBase, draw: Callable[..., Tensor]
) -> None:
    image = draw(1, 64, 64, 3).sigmoid()
    positive = apply_controlnet(prompts[:1], control, image, 0.5, apply_to_uncond=True)[0]
    assert close(run(positive, prompts[1]), run(*apply_controlnet(prompts, control, image, 0.5)))


def test_a_net_and_an_adapter(
    run: Run, prompts: list[Any], control: ControlBase, draw: Callable[..., Tensor], save: Callable[..., Path]
) -> None:
    """The adapter's finest feature is for a block that the tiny UNet has, with other channels: it is left out."""
    adapter = load_controlnet(
        save(randomise(T2IAdapter(channels=[32, 64, 64, 64])).state_dict(), "adapter.safetensors")
    )
    image = draw(1, 64, 64, 3).sigmoid()
    both = apply_controlnet(apply_controlnet(prompts, adapter, image, 0.5), control, image, 0.5)
    assert run(*both).isfinite().all()
    assert not close(run(*both), run(*apply_controlnet(prompts, adapter, image, 0.5)), 1e-2)


def test_boxes(run: Run, prompts: list[Any], draw: Callable[..., Tensor], save: Callable[..., Path]) -> None:
    gligen = load_gligen(save(boxes_state(draw), "gligen.safetensors"))
    plain = run(*prompts)
    positive, negative = prompts

    def boxed(*boxes: Any) -> Tensor:
        options = {"gligen": ("position", gligen, list(boxes))}
        return run([[prompt, options] for prompt, _ in positive], negative)

    one = boxed((draw(1, TEXT), 4, 4, 0, 0))
    assert one.isfinite().all() and not close(one, plain, 1e-2)
    assert not close(boxed((draw(1, TEXT), 4, 4, 4, 4)), one, 1e-4)
