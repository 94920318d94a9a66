"""Every node of sampling, with usual and extreme settings, gives what it gives in ComfyUI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .cases import EDITS, GUIDED, LEVELS, SAMPLERS, SCHEDULES, Case, name_of
from .recipes import edited, guided, levels, numbers, sampled, schedule

Out = Callable[..., Any]
Agrees = Callable[[str, list[float]], None]


@pytest.mark.parametrize("case", SCHEDULES, ids=lambda case: name_of(*case))
def test_schedules(case: Case, out: Out, model: Any, agrees: Agrees) -> None:
    agrees(name_of(*case), schedule(out, model, case))


@pytest.mark.parametrize("case", LEVELS, ids=lambda case: name_of(*case))
def test_noise_levels(case: Case, out: Out, model: Any, agrees: Agrees) -> None:
    agrees(name_of(*case), levels(out, model, case))


@pytest.mark.parametrize("case", SAMPLERS, ids=lambda case: name_of(*case))
def test_samplers(case: Case, out: Out, model: Any, agrees: Agrees) -> None:
    agrees(name_of(*case), sampled(out, model, case))


@pytest.mark.parametrize("name", GUIDED)
def test_guidance(name: str, out: Out, model: Any, second: Any, agrees: Agrees) -> None:
    output, denoised = guided(out, model, second, GUIDED[name])
    agrees(name, [*numbers(output), *numbers(denoised)])


@pytest.mark.parametrize("name", EDITS)
def test_editing(name: str, out: Out, inpainting: Any, editing: Any, agrees: Agrees) -> None:
    agrees(name, edited(out, name, inpainting, editing))
