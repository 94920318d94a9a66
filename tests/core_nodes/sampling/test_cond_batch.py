"""Conditionings put together: batches, areas, masks, ranges, defaults, controls, against computing them directly."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import comfyk.context
import pytest
import torch
from comfyk_core_nodes.sampling import model_sampling as levels
from comfyk_core_nodes.sampling import prediction
from comfyk_core_nodes.sampling.cond_batch import calc_cond_batch
from comfyk_core_nodes.sampling.conds import CONDCrossAttn, CONDNoiseShape
from comfyk_core_nodes.sampling.prepare import convert_cond, prepare_mask, process_conds
from comfyk_core_nodes.sampling.regions import fit_area, mask_bounds
from torch import Tensor

X = torch.randn(2, 4, 24, 32, generator=torch.Generator().manual_seed(0))
SIGMA = torch.tensor([2.0, 2.0])
CPU = torch.device("cpu")


@dataclass
class Model:
    """Adds the prompt's mean, the concatenated picture and the control to half of the latent."""

    needed: int = 0
    """Bytes that it says it needs for each item."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    model_sampling: Any = field(
        default_factory=lambda: levels.model_sampling(levels.ModelSamplingDiscrete, prediction.EPS)
    )

    def memory_required(self, shape: list[int]) -> int:
        return shape[0] * self.needed

    def extra_conds(self, **options: Any) -> dict[str, Any]:
        values: dict[str, Any] = {"c_crossattn": CONDCrossAttn(options["cross_attn"])}
        if "picture" in options:
            values["c_concat"] = CONDNoiseShape(options["picture"])
        return values

    def apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_crossattn: Tensor,
        c_concat: Any = None,
        control: Any = None,
        **more: Any,
    ) -> Tensor:
        self.calls.append({"x": x, "t": t, "prompt": c_crossattn, **more})
        out = x * 0.5 + c_crossattn.mean(dim=(1, 2)).view(-1, 1, 1, 1)
        if c_concat is not None:
            out = out + c_concat
        return out if control is None else out + control


def cond(value: float, tokens: int = 77, **options: Any) -> list[list[Any]]:
    return [[torch.full((1, tokens, 8), value), options]]


def ready(model: Model, **conds: list[list[Any]]) -> list[list[dict[str, Any]]]:
    converted = {kind: convert_cond(conditioning) for kind, conditioning in conds.items()}
    return list(process_conds(model, X, converted, CPU, latent_image=torch.zeros_like(X)).values())


def run(model: Model, *conds: Any, options: dict[str, Any] | None = None) -> list[Tensor]:
    return calc_cond_batch(model, list(conds), X, SIGMA, options or {})


def test_a_batch_equals_one_by_one() -> None:
    together, apart = Model(), Model(needed=2**60)
    results = [
        run(model, *ready(model, positive=cond(1.0), negative=cond(-1.0))) for model in (together, apart)
    ]
    assert [call["x"].shape[0] for call in together.calls] == [4]
    assert [call["x"].shape[0] for call in apart.calls] == [2, 2]
    for a, b, value in zip(*results, (1.0, -1.0), strict=True):
        assert a.equal(b)
        torch.testing.assert_close(a, X * 0.5 + value)


def test_what_the_network_is_told() -> None:
    model = Model()
    patch = object()
    options = {"transformer_options": {"patches": {"attn1_patch": [patch]}, "sample_sigmas": "sigmas"}}
    run(model, *ready(model, positive=cond(1.0), negative=cond(-1.0)), options=options)
    told = model.calls[0]["transformer_options"]
    assert told["cond_or_uncond"] == [1, 0]
    assert told["sigmas"] is SIGMA
    assert told["patches"] == {"attn1_patch": [patch]}
    assert told["patches"]["attn1_patch"] is not options["transformer_options"]["patches"]["attn1_patch"]
    assert told["sample_sigmas"] == "sigmas"
    assert len(set(told["uuids"])) == 2
    assert model.calls[0]["prompt"][:2].mean() == -1.0
    assert model.calls[0]["t"].tolist() == [2.0] * 4


def test_prompts_of_other_lengths_are_repeated_when_that_is_little() -> None:
    model = Model()
    run(model, *ready(model, positive=cond(1.0, 154), negative=cond(-1.0, 77)))
    assert [tuple(call["prompt"].shape) for call in model.calls] == [(4, 154, 8)]
    model = Model()
    run(model, *ready(model, positive=cond(1.0, 77 * 5), negative=cond(-1.0, 77)))
    assert [call["prompt"].shape[1] for call in model.calls] == [77 * 5, 77]


def test_nothing_gives_zeros() -> None:
    model = Model()
    empty, none, one = run(model, [], None, ready(model, positive=cond(1.0))[0])
    assert not empty.any() and not none.any() and one.any()


def test_two_prompts_are_averaged_by_strength() -> None:
    model = Model()
    conds = ready(model, positive=cond(1.0, strength=3.0) + cond(5.0))
    torch.testing.assert_close(run(model, *conds)[0], X * 0.5 + 2.0)
    assert len(model.calls) == 1


def test_an_area_fades_into_the_rest() -> None:
    model = Model()
    base, area = cond(1.0), cond(3.0, area=(16, 16, 4, 0))
    result = run(model, *ready(model, positive=base + area))[0]
    weight = torch.zeros(24, 32)
    weight[4:20, 0:16] = 1.0
    for i, fade in enumerate((0.25, 0.5, 0.75)):
        weight[4 + i, :16] *= fade
        weight[19 - i, :16] *= fade
        weight[4:20, 15 - i] *= fade
    expected = X * 0.5 + (1.0 + 3.0 * weight) / (1.0 + weight)
    torch.testing.assert_close(result, expected)
    assert sorted(tuple(call["x"].shape) for call in model.calls) == [(2, 4, 16, 16), (2, 4, 24, 32)]


def test_an_area_by_percentage_and_one_that_leaves_the_picture() -> None:
    model = Model()
    run(model, *ready(model, positive=cond(3.0, area=("percentage", 0.5, 0.25, 0.5, 0.75))))
    assert tuple(model.calls[0]["x"].shape) == (2, 4, 12, 8)
    assert model.calls[0]["x"].equal(X[:, :, 12:, 24:])
    model = Model()
    run(model, *ready(model, positive=cond(3.0, area=(16, 16, 16, 0))))
    assert tuple(model.calls[0]["x"].shape) == (2, 4, 8, 16)
    model = Model()
    assert not run(model, *ready(model, positive=cond(3.0, area=(8, 8, 24, 0))))[0].any()
    assert model.calls == []


def test_an_area_gets_an_opposite() -> None:
    model = Model()
    positive, negative = ready(
        model, positive=cond(1.0) + cond(3.0, area=(16, 16, 0, 0)), negative=cond(-1.0)
    )
    assert [entry.get("area") for entry in negative] == [None, (16, 16, 0, 0)]
    assert negative[1]["model_conds"]["c_crossattn"].cond.mean() == -1.0
    assert len(positive) == 2


def test_fit_area() -> None:
    assert fit_area((8, 9, 1, 2), 2) == [8, 9, 1, 2]
    assert fit_area((8, 9, 1, 2), 3) == [2**31 - 1, 8, 9, 0, 1, 2]
    assert fit_area((7, 8, 9, 0, 1, 2), 2) == [7, 8, 0, 1]


def test_masks_weigh() -> None:
    model = Model()
    mask = torch.zeros(1, 192, 256)
    mask[:, :, 128:] = 0.5
    result = run(model, *ready(model, positive=cond(1.0) + cond(3.0, mask=mask, mask_strength=2.0)))[0]
    torch.testing.assert_close(result[..., :15], X[..., :15] * 0.5 + 1.0)
    torch.testing.assert_close(result[..., 17:], X[..., 17:] * 0.5 + 2.0)


def test_masks_of_each_item() -> None:
    model = Model()
    masks = torch.stack([torch.zeros(24, 32), torch.ones(24, 32)])
    result = run(model, *ready(model, positive=cond(1.0) + cond(3.0, mask=masks)))[0]
    torch.testing.assert_close(result[0], X[0] * 0.5 + 1.0)
    torch.testing.assert_close(result[1], X[1] * 0.5 + 2.0)


def test_mask_bounds() -> None:
    mask = torch.zeros(2, 24, 32)
    mask[0, 3:14, 5] = 1.0
    mask[1, 10, 5:20] = 0.2
    assert mask_bounds(mask) == (11, 15, 3, 5)
    assert mask_bounds(torch.zeros(1, 24, 32)) == (8, 8, 0, 0)
    model = Model()
    run(model, *ready(model, positive=cond(3.0, mask=mask, set_area_to_bounds=True)))
    assert model.calls[0]["x"].equal(X[:, :, 3:14, 5:20])


def test_timestep_ranges() -> None:
    model = Model()
    # Half of a run is at sigma 1.6.
    early, late = cond(1.0, start_percent=0.0, end_percent=0.5), cond(3.0, start_percent=0.5)
    conds = ready(model, positive=early + late)
    torch.testing.assert_close(run(model, *conds)[0], X * 0.5 + 1.0)
    low = calc_cond_batch(model, conds, X, torch.tensor([1.0, 1.0]), {})[0]
    torch.testing.assert_close(low, X * 0.5 + 3.0)


def test_defaults_fill_what_is_left() -> None:
    model = Model()
    mask = torch.zeros(1, 24, 32)
    mask[:, :, 8:] = 1.0
    result = run(model, *ready(model, positive=cond(1.0, mask=mask) + cond(3.0, default=True)))[0]
    torch.testing.assert_close(result[..., :8], X[..., :8] * 0.5 + 3.0)
    torch.testing.assert_close(result[..., 8:], X[..., 8:] * 0.5 + 1.0)
    model = Model()
    run(model, *ready(model, positive=cond(1.0) + cond(3.0, default=True)))
    assert len(model.calls) == 1


def test_concatenated_pictures_are_cut_with_the_area() -> None:
    model = Model()
    picture = torch.randn(1, 4, 24, 32)
    result = run(model, *ready(model, positive=cond(0.0, picture=picture, area=(16, 16, 8, 16))))[0]
    torch.testing.assert_close(result[..., 8:, 16:], X[..., 8:, 16:] * 0.5 + picture[..., 8:, 16:])


class Control:
    def __init__(self, value: float) -> None:
        self.value, self.ran, self.told = value, [], []

    def pre_run(self, model: Any, percent_to_sigma: Any) -> None:
        self.ran.append(percent_to_sigma(0.5))

    def get_control(self, x: Tensor, t: Tensor, values: Any, batched: int, options: Any) -> float:
        self.told.append((x.shape[0], batched, sorted(values), options["cond_or_uncond"]))
        return self.value


def test_controls_run_once_for_what_shares_them() -> None:
    model, control = Model(), Control(10.0)
    conds = ready(model, positive=cond(1.0, control=control), negative=cond(-1.0, control=control))
    assert len(control.ran) == 1
    positive, negative = run(model, *conds)
    assert control.told == [(4, 2, ["c_crossattn", "transformer_options"], [1, 0])]
    torch.testing.assert_close(positive, X * 0.5 + 11.0)
    torch.testing.assert_close(negative, X * 0.5 + 9.0)


def test_a_control_on_positive_alone_or_on_both() -> None:
    model, control = Model(), Control(10.0)
    _, negative = run(model, *ready(model, positive=cond(1.0, control=control), negative=cond(-1.0)))
    torch.testing.assert_close(negative, X * 0.5 - 1.0)
    both = cond(1.0, control=control, control_apply_to_uncond=True)
    _, negative = run(model, *ready(model, positive=both, negative=cond(-1.0)))
    torch.testing.assert_close(negative, X * 0.5 + 9.0)


def test_gligen_patches_follow_the_others() -> None:
    class Gligen:
        def set_position(self, shape: Any, boxes: Any, device: Any) -> Any:
            return ("patch", tuple(shape), boxes)

    model = Model()
    gligen = ("position", SimpleNamespace(model=Gligen()), ["box"])
    conds = ready(model, positive=cond(1.0, gligen=gligen), negative=cond(-1.0))
    run(model, *conds, options={"transformer_options": {"patches": {"middle_patch": ["mine"]}}})
    assert len(model.calls) == 2
    for call in model.calls:
        patches = call["transformer_options"]["patches"]["middle_patch"]
        assert patches == ["mine", ("patch", tuple(X.shape), ["box"])]


def test_a_wrapper_of_the_model() -> None:
    model = Model()

    def wrapper(apply_model: Any, args: dict[str, Any]) -> Tensor:
        assert args["cond_or_uncond"] == [1, 0]
        return apply_model(args["input"], args["timestep"], **args["c"]) * 2

    conds = ready(model, positive=cond(1.0), negative=cond(-1.0))
    result = run(model, *conds, options={"model_function_wrapper": wrapper})[0]
    torch.testing.assert_close(result, X + 2.0)


def test_interrupting_stops_before_the_next_forward() -> None:
    class Run:
        job_id = "job"

        def check_interrupted(self) -> None:
            raise comfyk.context.Interrupted

    model = Model(needed=2**60)
    conds = ready(model, positive=cond(1.0), negative=cond(-1.0))
    call = comfyk.context.NodeCall(Run(), "job", "1", None)  # type: ignore[arg-type]
    with comfyk.context.node_call(call), pytest.raises(comfyk.context.Interrupted):
        run(model, *conds)
    assert model.calls == []


def test_masks_of_what_changes() -> None:
    mask = torch.zeros(16, 16)
    mask[:, 8:] = 1.0
    prepared = prepare_mask(mask, X.shape, CPU)
    assert prepared.shape == X.shape
    assert not prepared[..., :15].any() and prepared[..., 17:].min() == 1.0
    assert prepare_mask(torch.rand(3, 8, 8), X.shape, CPU).shape == X.shape
    assert prepare_mask(torch.rand(1, 8, 8), (1, 4, 3, 8, 8), CPU).shape == (1, 4, 3, 8, 8)
