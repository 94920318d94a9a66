"""T2I-Adapters against those of diffusers, and where their features go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk_core_nodes.control.layouts import diffusers_adapter_to_original
from comfyk_core_nodes.control.load import load_controlnet
from comfyk_core_nodes.control.t2i_adapter import T2IAdapter
from diffusers import T2IAdapter as TheirAdapter
from torch import Tensor

from .conftest import close, randomise

CHANNELS = [16, 32, 64, 64]
KINDS = {
    "full": {"adapter_type": "full_adapter", "downscale_factor": 8},
    "grey": {"adapter_type": "full_adapter", "downscale_factor": 8, "in_channels": 1},
    "light": {"adapter_type": "light_adapter", "downscale_factor": 8, "num_res_blocks": 4},
    "xl": {"adapter_type": "full_adapter_xl", "downscale_factor": 16},
}


def adapter(kind: str) -> TheirAdapter:
    # The light one has a level more than channels are listed.
    channels = CHANNELS[:3] if kind == "light" else CHANNELS
    return randomise(TheirAdapter(channels=channels, **KINDS[kind]))


SIGMA = torch.tensor([1.0, 1.0])


def loaded(path: Path) -> T2IAdapter:
    control = load_controlnet(path)
    assert isinstance(control, T2IAdapter)
    return control


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_diffusers(
    kind: str, layout: str, save: Callable[..., Path], draw: Callable[..., Tensor]
) -> None:
    theirs = adapter(kind)
    state: Any = theirs.state_dict()
    if layout == "original":
        state = diffusers_adapter_to_original(state)
        assert state is not None
    control = loaded(save(state, "adapter.pth"))
    picture = draw(2, control.channels_in, 128, 64)
    with torch.no_grad():
        ours, expected = control.t2i_model(picture), theirs(picture)
    assert len(ours) == 4
    assert all(close(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_features_go_to_the_blocks_of_their_size(
    kind: str, save: Callable[..., Path], draw: Callable[..., Tensor]
) -> None:
    """The UNet takes residuals from the end of each list. SD 1.x halves after blocks 2, 5 and 8, SDXL after 2 and 5."""
    control = loaded(save(adapter(kind).state_dict()))
    control.set_cond_hint(draw(1, 3, 128, 128).sigmoid())
    with torch.no_grad():
        residuals = control.get_control(torch.zeros(2, 4, 16, 16), SIGMA, {}, 1)
    assert residuals is not None
    places = {n: v.shape[-1] for n, v in enumerate(reversed(residuals["input"])) if v is not None}
    if kind == "xl":
        assert places == {3: 8, 5: 8, 8: 4}
        assert [value is not None and value.shape[-1] for value in residuals["middle"]] == [4]
    else:
        assert places == {2: 16, 5: 8, 8: 4, 11: 2}
        assert residuals["middle"] == []


def test_latents_of_odd_sizes(save: Callable[..., Path], draw: Callable[..., Tensor]) -> None:
    control = loaded(save(adapter("xl").state_dict()))
    control.set_cond_hint(draw(1, 3, 100, 100).sigmoid())
    assert control.scale_image_to(9 * 8, 7 * 8) == (80, 64)
    with torch.no_grad():
        residuals = control.get_control(torch.zeros(2, 4, 7, 9), SIGMA, {}, 1)
    assert residuals is not None
    finest = residuals["input"][-4]
    assert finest is not None and finest.shape[-2:] == (4, 5)


def test_runs_once_and_counts_at_its_strength(save: Callable[..., Path], draw: Callable[..., Tensor]) -> None:
    control = loaded(save(adapter("light").state_dict()))
    hints = draw(2, 3, 64, 64).sigmoid()
    x = torch.zeros(2, 4, 8, 8)

    def coarsest(strength: float, hint: Tensor, batch: Tensor = x, parts: int = 1) -> Tensor:
        with torch.no_grad():
            found = control.copy().set_cond_hint(hint, strength).get_control(batch, SIGMA, {}, parts)
        assert found is not None and found["input"][0] is not None
        return found["input"][0]

    full = coarsest(1.0, hints)
    assert close(coarsest(0.3, hints), full * 0.3)
    assert not coarsest(0.0, hints).any()
    # Cond and uncond in one batch: the hints are the same for both.
    assert close(coarsest(1.0, hints, torch.zeros(4, 4, 8, 8), 2), torch.cat([full, full]))
    control.set_cond_hint(hints)
    with torch.no_grad():
        control.get_control(torch.zeros(4, 4, 8, 8), SIGMA, {}, 2)
        again = control.get_control(x, SIGMA, {}, 1)
    assert again is not None and again["input"][0] is not None and close(again["input"][0], full)
