"""Nodes that make and change sigmas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("in_a_job")

Out = Callable[..., Any]


def sigmas(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_split(out: Out) -> None:
    all_of_them = sigmas(4, 3, 2, 1, 0)
    high, low = out("SplitSigmas", sigmas=all_of_them, step=2)
    assert high.tolist() == [4, 3, 2]
    assert low.tolist() == [2, 1, 0]
    high, low = out("SplitSigmasDenoise", sigmas=all_of_them, denoise=0.5)
    assert high.tolist() == [4, 3, 2]
    assert low.tolist() == [2, 1, 0]


def test_flip_starts_above_0(out: Out) -> None:
    assert out("FlipSigmas", sigmas=sigmas(2, 1, 0)).tolist() == pytest.approx([0.0001, 1, 2])
    assert len(out("FlipSigmas", sigmas=sigmas())) == 0


def test_set_first_leaves_the_others(out: Out) -> None:
    before = sigmas(2, 1, 0)
    assert out("SetFirstSigma", sigmas=before, sigma=9.0).tolist() == [9, 1, 0]
    assert before.tolist() == [2, 1, 0]


@pytest.mark.parametrize(("spacing", "middle"), [("linear", 6), ("cosine", 5.17157), ("sine", 6.82843)])
def test_extend(out: Out, spacing: str, middle: float) -> None:
    longer = out(
        "ExtendIntermediateSigmas",
        sigmas=sigmas(8, 4, 0),
        steps=2,
        start_at_sigma=-1.0,
        end_at_sigma=5.0,
        spacing=spacing,
    )
    assert longer.tolist() == pytest.approx([8, middle, 4, 0])


@pytest.mark.parametrize("text", ["1, 0.5 ,.25,0", "1;0.5;2.5e-1;0.", "[1 0.5\n0.25 0]"])
def test_by_hand(out: Out, text: str) -> None:
    assert out("ManualSigmas", sigmas=text).tolist() == [1, 0.5, 0.25, 0]


@pytest.mark.parametrize(
    ("node", "values"),
    [
        ("KarrasScheduler", {"sigma_max": 14.6, "sigma_min": 0.03, "rho": 7.0}),
        ("ExponentialScheduler", {"sigma_max": 14.6, "sigma_min": 0.03}),
        ("PolyexponentialScheduler", {"sigma_max": 14.6, "sigma_min": 0.03, "rho": 1.0}),
        ("VPScheduler", {"beta_d": 19.9, "beta_min": 0.1, "eps_s": 0.001}),
        ("AlignYourStepsScheduler", {"model_type": "SD1", "denoise": 1.0}),
        ("GITSScheduler", {"coeff": 1.2000000000000002, "denoise": 1.0}),
        ("OptimalStepsScheduler", {"model_type": "FLUX", "denoise": 1.0}),
    ],
)
def test_schedules_descend_to_0(out: Out, node: str, values: dict[str, Any]) -> None:
    made = out(node, steps=6, **values)
    assert made.shape == (7,)
    assert made[-1] == 0
    assert (made.diff() < 0).all()
