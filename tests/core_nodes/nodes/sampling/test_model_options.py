"""What nodes set on a clone of a model to change how it is run, through whole runs of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.sampling.guidance import CFGGuider
from comfyk_core_nodes.sampling.run import ksampler
from torch import Tensor

from .recipes import PICTURE, text, wave

LATENT = PICTURE["samples"][:1]
X = torch.full((1, 4, 16, 24), 0.25)
Options = dict[str, Any]


def run(model: ModelPatcher, cfg: float = 4.0) -> Tensor:
    guider = CFGGuider(model)
    guider.set_conds([[text(1.0), {}]], [[text(-2.0), {}]])
    guider.set_cfg(cfg)
    sigmas = torch.tensor([7.0, 2.0, 0.0])
    return guider.sample(wave(*LATENT.shape, start=9.0), LATENT, ksampler("euler"), sigmas, seed=5)


def test_what_each_function_is_given(model: ModelPatcher) -> None:
    seen: dict[str, set[str]] = {}
    clone = model.clone()

    def calculate(args: Options) -> list[Tensor]:
        seen["calculate"] = set(args)
        return [X.clone(), -X]

    def before(args: Options) -> list[Tensor]:
        seen["before"] = set(args)
        return args["conds_out"]

    def guide(args: Options) -> Tensor:
        seen["guide"] = set(args)
        return args["cond"] * 2

    def after(args: Options) -> Tensor:
        seen["after"] = set(args)
        return args["denoised"]

    clone.set_model_sampler_calc_cond_batch_function(calculate)
    clone.set_model_sampler_pre_cfg_function(before)
    clone.set_model_sampler_cfg_function(guide)
    clone.set_model_sampler_post_cfg_function(after)
    run(clone)
    common = {"input", "sigma", "model", "model_options"}
    both = {"cond_denoised", "uncond_denoised", "cond_scale"}
    assert seen == {
        "calculate": {*common, "conds"},
        "before": {*common, "conds", "conds_out", "cond_scale", "timestep"},
        "guide": {*common, *both, "cond", "uncond", "timestep", "input_cond", "input_uncond"},
        "after": {*common, *both, "denoised", "cond", "uncond"},
    }


def test_sets_are_calculated_by_ones_own_function(model: ModelPatcher) -> None:
    clone = model.clone()
    clone.set_model_sampler_calc_cond_batch_function(lambda args: [X, X])
    expected = model.get_model_object("latent_format").process_out(X)
    torch.testing.assert_close(run(clone), expected)


@pytest.mark.parametrize("kind", ["pre", "cfg", "post", "option"])
def test_negative_is_left_out_at_a_scale_of_1_unless_a_node_needs_it(model: ModelPatcher, kind: str) -> None:
    asked: list[int] = []

    def count(apply_model: Any, args: Options) -> Tensor:
        asked.append(len(args["cond_or_uncond"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    def set_on(clone: ModelPatcher, needs_negative: bool) -> None:
        if kind == "pre":
            clone.set_model_sampler_pre_cfg_function(lambda args: args["conds_out"], needs_negative)
        elif kind == "cfg":
            clone.set_model_sampler_cfg_function(lambda args: args["cond"], needs_negative)
        elif kind == "post":
            clone.set_model_sampler_post_cfg_function(lambda args: args["denoised"], needs_negative)
        elif needs_negative:
            clone.disable_model_cfg1_optimization()

    for needs_negative in (False, True):
        clone = model.clone()
        clone.set_model_unet_function_wrapper(count)
        set_on(clone, needs_negative)
        run(clone, cfg=1.0)
    assert asked == [1, 1, 2, 2]


@pytest.mark.parametrize("name", ["attn1", "attn2"])
def test_attention_is_replaced_in_one_block(unet_model: ModelPatcher, name: str) -> None:
    seen: list[Options] = []

    def replace(q: Tensor, k: Tensor, v: Tensor, extra: Options) -> Tensor:
        seen.append(extra)
        return q

    clone = unet_model.clone()
    getattr(clone, f"set_model_{name}_replace")(replace, "middle", 0)
    assert not run(clone).equal(run(unet_model))
    assert [extra["block"] for extra in seen] == [("middle", 0)] * 2
    assert [extra["sigmas"].tolist() for extra in seen] == [[7.0], [2.0]]
    assert seen[0]["cond_or_uncond"] == [1, 0] and len(seen[0]["uuids"]) == 2


def test_patches_of_blocks_are_called_in_a_run(unet_model: ModelPatcher) -> None:
    clone = unet_model.clone()
    clone.set_model_attn1_patch(lambda q, k, v, extra: (q * 1.1, k, v))
    clone.set_model_attn2_output_patch(lambda n, extra: n * 0.8)
    clone.set_model_input_block_patch(lambda h, options: h * 1.01)
    clone.set_model_output_block_patch(lambda h, skip, options: (h, skip * 0.9))
    assert not run(clone).equal(run(unet_model))
    assert run(clone).equal(run(clone))


@pytest.mark.parametrize(("dtype", "size"), [("fp32", 1e-6), ("fp16", 0.1), ("bf16", 0.5)])
def test_computing_in_another_dtype(unet_model: ModelPatcher, out: Any, dtype: str, size: float) -> None:
    plain = run(unet_model)
    other = run(out("ModelComputeDtype", model=unet_model, dtype=dtype))
    assert other.dtype == torch.float32
    error = ((other - plain).abs().max() / plain.abs().max()).item()
    assert error <= size and (dtype == "fp32") == (error == 0)
    assert run(out("ModelComputeDtype", model=unet_model, dtype="default")).equal(plain)


def test_attention_by_torch_takes_out_another(unet_model: ModelPatcher, out: Any) -> None:
    plain = run(unet_model)
    clone = unet_model.clone()
    clone.set_model_optimized_attention(lambda q, k, v, heads, **options: q)
    assert not run(clone).equal(plain)
    assert run(out("ModelAttentionBackend", model=clone, attention="pytorch attention")).equal(plain)
