"""What nodes do to conditionings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfyk_core_nodes.conditioning import edit
from comfyk_core_nodes.conditioning.inpaint import edit_conditioning, inpaint_conditioning


def cond(value: float, tokens: int = 3, pooled: float | None = None, **options: Any) -> list[list[Any]]:
    if pooled is not None:
        options["pooled_output"] = torch.full((1, 2), pooled)
    return [[torch.full((1, tokens, 2), value), options]]


def test_nothing_is_changed_in_place() -> None:
    original = cond(1.0, pooled=1.0, strength=1.0)
    before = dict(original[0][1])
    edit.set_area(original, 64, 64, 0, 0, 2.0)
    edit.zero_out(original)
    edit.multiply(original, 3.0)
    edit.average(original, cond(0.0, pooled=0.0), 0.5)
    assert original[0][1] == before and original[0][0].mean() == 1.0


def test_combine_and_set_values() -> None:
    both = edit.combine(cond(1.0), cond(2.0))
    assert [entry[0].mean().item() for entry in both] == [1.0, 2.0]
    appended = edit.conditioning_set_values(
        cond(1.0, pictures=[1]), {"pictures": [2], "more": [3]}, append=True
    )
    assert appended[0][1] == {"pictures": [1, 2], "more": [3]}


@pytest.mark.parametrize("tokens", [2, 3, 5])
def test_average(tokens: int) -> None:
    (prompt, options), *_ = edit.average(cond(1.0, pooled=1.0), cond(5.0, tokens, pooled=3.0), 0.75)
    shared = min(tokens, 3)
    assert prompt[0, :shared].mean().item() == 2.0
    assert prompt[0, shared:].numel() == 0 or prompt[0, shared:].mean().item() == 0.75
    assert options["pooled_output"].mean().item() == 1.5


def test_average_without_a_pooled_output() -> None:
    assert "pooled_output" not in edit.average(cond(1.0), cond(5.0), 0.5)[0][1]
    assert edit.average(cond(1.0), cond(5.0, pooled=3.0), 0.5)[0][1]["pooled_output"].mean() == 3.0
    assert edit.average(cond(1.0, pooled=2.0), cond(5.0), 0.5)[0][1]["pooled_output"].mean() == 2.0


def test_prompts_of_different_families_do_not_join() -> None:
    sd1, sdxl = [[torch.zeros(1, 3, 768), {}]], [[torch.zeros(1, 3, 2048), {}]]
    message = (
        r"the first has 768 channels \(SD 1.x\), that of the second 2048 channels \(SDXL\); .* same CLIP"
    )
    with pytest.raises(ValueError, match=f"ConditioningConcat .* prompt of {message}"):
        edit.concat(sd1, sdxl)
    with pytest.raises(ValueError, match=f"ConditioningAverage .* prompt of {message}"):
        edit.average(sd1, sdxl, 0.5)
    other = [[torch.zeros(1, 3, 2), {"pooled_output": torch.zeros(1, 5)}]]
    with pytest.raises(ValueError, match=r"the pooled output of the first has 2 channels.* 5 channels"):
        edit.average(cond(1.0, pooled=1.0), other, 0.5)


def test_only_the_first_of_the_second_is_used(caplog: pytest.LogCaptureFixture) -> None:
    prompt = edit.concat(cond(1.0), cond(5.0) + cond(9.0))[0][0]
    assert prompt.shape == (1, 6, 2) and prompt.mean() == 3.0
    assert "ConditioningConcat uses the first entry" in caplog.text


def test_zero_out_and_multiply() -> None:
    prompt, options = edit.zero_out(cond(1.0, pooled=2.0))[0]
    assert not prompt.any() and not options["pooled_output"].any()
    prompt, options = edit.multiply(cond(1.0, pooled=2.0), -2.0)[0]
    assert prompt.mean() == -2.0 and options["pooled_output"].mean() == -4.0


def test_areas_masks_and_ranges() -> None:
    options = edit.set_area(cond(1.0), 128, 64, 8, 16, 0.5)[0][1]
    assert options == {"area": (8, 16, 2, 1), "strength": 0.5, "set_area_to_bounds": False}
    options = edit.set_area_percentage(cond(1.0), 0.5, 0.25, 0.1, 0.2, 1.0)[0][1]
    assert options["area"] == ("percentage", 0.25, 0.5, 0.2, 0.1)
    options = edit.set_mask(cond(1.0), torch.ones(4, 6), 0.5, bounds=True)[0][1]
    assert options["mask"].shape == (1, 4, 6)
    assert (options["mask_strength"], options["set_area_to_bounds"]) == (0.5, True)
    assert edit.set_timestep_range(cond(1.0), 0.2, 0.7)[0][1] == {"start_percent": 0.2, "end_percent": 0.7}
    assert edit.set_strength(cond(1.0), 3.0)[0][1] == {"strength": 3.0}


def test_values_in_a_range() -> None:
    edited = edit.set_values_in_range(cond(1.0, start_percent=0.1), {"a": 1}, 0.3, 0.6)
    spans = [(e[1]["start_percent"], e[1]["end_percent"], "a" in e[1]) for e in edited]
    assert spans == [
        (0.1, pytest.approx(0.3, abs=1e-4), False),
        (0.3, 0.6, True),
        (pytest.approx(0.6, abs=1e-4), 1.0, False),
    ]
    assert edited[0][1]["end_percent"] < 0.3 and edited[2][1]["start_percent"] > 0.6
    untouched = cond(1.0, start_percent=0.8)
    assert edit.set_values_in_range(untouched, {"a": 1}, 0.3, 0.6) == untouched


def test_unclip_and_gligen_add_up() -> None:
    once = edit.add_unclip(cond(1.0), "vision", 0.5, 0.1)
    twice = edit.add_unclip(once, "other", 1.0, 0.0)
    assert [e["clip_vision_output"] for e in twice[0][1]["unclip_conditioning"]] == ["vision", "other"]
    assert edit.add_unclip(once, "vision", 0.0, 0.0) is once
    embedding = torch.zeros(1, 768)
    boxes = edit.add_gligen_box(cond(1.0), "model", embedding, 64, 128, 8, 16)
    boxes = edit.add_gligen_box(boxes, "model", embedding, 8, 8, 0, 0)
    kind, model, found = boxes[0][1]["gligen"]
    assert (kind, model) == ("position", "model")
    assert [box[1:] for box in found] == [(16, 8, 2, 1), (1, 1, 0, 0)]


class ControlNet:
    def __init__(self) -> None:
        self.previous: Any = None

    def copy(self) -> ControlNet:
        return ControlNet()

    def set_cond_hint(self, hint: Any, strength: float, span: Any, vae: Any = None) -> ControlNet:
        self.hint, self.strength, self.span, self.vae = hint, strength, span, vae
        return self

    def set_previous_controlnet(self, previous: Any) -> None:
        self.previous = previous


def test_controlnets_are_shared_and_chained() -> None:
    image = torch.zeros(1, 6, 4, 3)
    first = edit.apply_controlnet([cond(1.0), cond(-1.0)], ControlNet(), image, 0.5, 0.1, 0.9, vae="vae")
    controls = [conditioning[0][1]["control"] for conditioning in first]
    assert controls[0] is controls[1]
    assert (controls[0].strength, controls[0].span, controls[0].vae) == (0.5, (0.1, 0.9), "vae")
    assert controls[0].hint.shape == (1, 3, 6, 4)
    second = edit.apply_controlnet(first, ControlNet(), image, 1.0)
    assert second[0][0][1]["control"].previous is controls[0]
    assert edit.apply_controlnet(first, ControlNet(), image, 0.0) == first


class Vae:
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen = pixels
        return pixels.movedim(-1, 1)[..., ::8, ::8]


def test_inpaint_conditioning() -> None:
    pixels, mask = torch.ones(1, 20, 16, 3), torch.zeros(1, 10, 8)
    mask[:, :, 4:] = 1.0
    vae = Vae()
    positive, negative, latent = inpaint_conditioning(cond(1.0), cond(-1.0), vae, pixels, mask)
    assert positive[0][1]["concat_latent_image"] is negative[0][1]["concat_latent_image"]
    # Grey where the picture is to change; cut in the middle to multiples of 8.
    assert positive[0][1]["concat_latent_image"][0, 0].tolist() == [[1.0, 0.5]] * 2
    assert positive[0][1]["concat_mask"].shape == (1, 1, 16, 16)
    assert latent["samples"].shape == (1, 3, 3, 2)
    assert latent["noise_mask"].shape == (1, 1, 16, 16)
    assert pixels.min() == 1.0
    assert "noise_mask" not in inpaint_conditioning(cond(1.0), cond(-1.0), vae, pixels, mask, False)[2]


def test_edit_conditioning() -> None:
    positive, _, latent = edit_conditioning(cond(1.0), cond(-1.0), Vae(), torch.ones(1, 20, 16, 3))
    assert positive[0][1]["concat_latent_image"].shape == (1, 3, 2, 2)
    assert not latent["samples"].any()
