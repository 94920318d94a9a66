"""Guiders and whole runs, on a model that is a formula in a real patcher."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import comfyk.context
import pytest
import torch
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.sampling import model_sampling as levels
from comfyk_core_nodes.sampling import prediction
from comfyk_core_nodes.sampling.conds import CONDCrossAttn
from comfyk_core_nodes.sampling.guidance import BasicGuider, CFGGuider, DualCFGGuider
from comfyk_core_nodes.sampling.names import SAMPLER_NAMES
from comfyk_core_nodes.sampling.noise import prepare_empty_noise, prepare_noise
from comfyk_core_nodes.sampling.run import (
    fix_empty_latent,
    ksampler,
    sample,
    sample_custom,
    sampler_object,
    sigmas_for,
)
from torch import Tensor, nn

LATENT_SCALE = 2.0


class Model(nn.Module):
    """The denoised latent is the prompt's mean, more so the lower the level."""

    def __init__(self) -> None:
        super().__init__()
        self.diffusion_model = nn.Linear(1, 1)
        self.model_sampling = levels.model_sampling(levels.ModelSamplingDiscrete, prediction.EPS)
        self.latent_format = SimpleNamespace(latent_channels=4, spacial_downscale_ratio=4)
        self.batches: list[list[int]] = []
        self.device = torch.device("cpu")

    def memory_required(self, shape: Any, **more: Any) -> int:
        return 0

    def extra_conds(self, **options: Any) -> dict[str, Any]:
        return {"c_crossattn": CONDCrossAttn(options["cross_attn"])}

    def process_latent_in(self, latent: Tensor) -> Tensor:
        return latent * LATENT_SCALE

    def process_latent_out(self, latent: Tensor) -> Tensor:
        return latent / LATENT_SCALE

    def scale_latent_inpaint(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, **more: Any) -> Tensor:
        return self.model_sampling.noise_scaling(sigma, noise, latent_image)

    def apply_model(self, x: Tensor, t: Tensor, c_crossattn: Tensor, **more: Any) -> Tensor:
        self.batches.append(more["transformer_options"]["cond_or_uncond"])
        s = t.view(-1, 1, 1, 1)
        return (c_crossattn.mean(dim=(1, 2)).view(-1, 1, 1, 1) * s + torch.tanh(x)) / (s + 1)


def cond(value: float, **options: Any) -> list[list[Any]]:
    return [[torch.full((1, 7, 3), value), options]]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def patcher(model: Model) -> ModelPatcher:
    return ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


EMPTY = torch.zeros(1, 4, 8, 8)
PICTURE = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def run(patcher: ModelPatcher) -> Callable[..., Tensor]:
    """KSampler with defaults."""

    def call(
        latent: Tensor = EMPTY, seed: int = 3, cfg: float = 5.0, noise: Any = None, **options: Any
    ) -> Tensor:
        noise = prepare_noise(latent, seed) if noise is None else noise
        settings = {"steps": 6, "sampler_name": "euler", "scheduler": "normal", **options}
        return sample(
            patcher,
            noise,
            cfg=cfg,
            positive=cond(1.0),
            negative=cond(-1.0),
            latent_image=latent,
            seed=seed,
            **settings,
        )

    return call


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_every_sampler_runs(name: str, run: Any) -> None:
    latent = run(sampler_name=name, latent=torch.zeros(2, 4, 8, 8))
    assert latent.shape == (2, 4, 8, 8) and latent.isfinite().all()
    assert latent.equal(run(sampler_name=name, latent=torch.zeros(2, 4, 8, 8)))


def test_unknown_sampler() -> None:
    with pytest.raises(ValueError, match=r"'nosuch' is not known; there are euler, "):
        ksampler("nosuch")


def test_guidance_goes_beyond_positive(patcher: ModelPatcher, model: Model, run: Any) -> None:
    run()
    assert model.batches == [[1, 0]] * 6
    guider = CFGGuider(patcher)
    guider.set_conds(cond(1.0), cond(-1.0))
    guider.set_cfg(3.0)
    seen: list[Tensor] = []
    noise = prepare_noise(EMPTY, 1)
    sigmas = torch.tensor([14.0, 0.0])
    guider.sample(noise, EMPTY, sampler_object("euler"), sigmas, callback=lambda i, x0, x, n: seen.append(x0))
    pull = 14.0 / 15.0
    x = noise * 14.0
    torch.testing.assert_close(seen[0], torch.tanh(x) / 15.0 + pull * (-1.0 + 3.0 * 2.0))


def test_without_guidance_negative_is_left_out(model: Model, run: Any) -> None:
    run(cfg=1.0)
    assert model.batches == [[0]] * 6


def test_cfg_pp_needs_negative_without_guidance_too(model: Model, run: Any) -> None:
    run(cfg=1.0, sampler_name="euler_cfg_pp")
    assert model.batches == [[1, 0]] * 6


def test_functions_before_in_place_of_and_after_guidance(patcher: ModelPatcher, model: Model) -> None:
    order: list[str] = []

    def before(args: dict[str, Any]) -> list[Tensor]:
        order.append("before")
        assert args["cond_scale"] == 4.0 and len(args["conds_out"]) == 2
        return [args["conds_out"][1], args["conds_out"][0]]

    def guide(args: dict[str, Any]) -> Tensor:
        order.append("guide")
        torch.testing.assert_close(args["cond"], args["input"] - args["cond_denoised"])
        return args["cond"]

    def after(args: dict[str, Any]) -> Tensor:
        order.append("after")
        # `before` swapped them.
        torch.testing.assert_close(args["denoised"], args["cond_denoised"])
        return torch.full_like(args["denoised"], 8.0)

    clone = patcher.clone()
    clone.set_model_sampler_pre_cfg_function(before)
    clone.set_model_sampler_cfg_function(guide)
    clone.set_model_sampler_post_cfg_function(after)
    latent = sample_custom(
        clone,
        prepare_noise(EMPTY, 1),
        4.0,
        sampler_object("euler"),
        torch.tensor([3.0, 0.0]),
        cond(1.0),
        cond(-1.0),
        EMPTY,
    )
    assert order == ["before", "guide", "after"]
    torch.testing.assert_close(latent, torch.full_like(latent, 8.0 / LATENT_SCALE))
    assert "sampler_cfg_function" not in patcher.model_options


def test_the_schedule_is_in_the_networks_options(patcher: ModelPatcher, model: Model, run: Any) -> None:
    told: list[Any] = []
    clone = patcher.clone()

    def wrapper(apply_model: Any, args: dict[str, Any]) -> Tensor:
        told.append(args["c"]["transformer_options"])
        return apply_model(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(wrapper)
    sigmas = torch.tensor([3.0, 1.0, 0.0])
    sampler = sampler_object("euler")
    sample_custom(clone, prepare_noise(EMPTY, 1), 4.0, sampler, sigmas, cond(1.0), cond(-1.0), EMPTY)
    assert [options["sigmas"].tolist() for options in told] == [[3.0], [1.0]]
    assert told[0]["sample_sigmas"].equal(sigmas)
    assert "sample_sigmas" not in clone.model_options.get("transformer_options", {})


def test_basic_and_dual_guiders(patcher: ModelPatcher, model: Model) -> None:
    noise, sigmas = prepare_noise(EMPTY, 1), torch.tensor([14.0, 0.0])
    pull = 14.0 / 15.0

    def first_x0(guider: CFGGuider) -> Tensor:
        seen: list[Tensor] = []
        guider.sample(
            noise, EMPTY, sampler_object("euler"), sigmas, callback=lambda i, x0, x, n: seen.append(x0)
        )
        return seen[0] - torch.tanh(noise * 14.0) / 15.0

    basic = BasicGuider(patcher)
    basic.set_conds(cond(1.0))
    torch.testing.assert_close(first_x0(basic), torch.full_like(EMPTY, pull))
    dual = DualCFGGuider(patcher)
    dual.set_conds(cond(1.0), cond(2.0), cond(-1.0))
    dual.set_cfg(3.0, 2.0)
    # From negative to middle by 2, and 3 times from middle to positive.
    torch.testing.assert_close(first_x0(dual), torch.full_like(EMPTY, pull * (-1 + 2 * 3 - 3)))
    dual.set_cfg(3.0, 2.0, nested=True)
    # From middle to positive by 3 is -1, which is where negative is.
    torch.testing.assert_close(first_x0(dual), torch.full_like(EMPTY, -pull))
    model.batches.clear()
    dual.set_cfg(1.0, 1.0)
    first_x0(dual)
    assert model.batches == [[2]]


def test_two_items_are_two_runs_of_one(run: Any) -> None:
    latent = torch.cat([PICTURE, PICTURE + 1])
    noise = prepare_noise(latent, 3)
    both = run(latent=latent, noise=noise, denoise=0.5)
    for i in range(2):
        one = run(latent=latent[i : i + 1], noise=noise[i : i + 1], denoise=0.5)
        torch.testing.assert_close(both[i : i + 1], one, atol=1e-5, rtol=1e-5)


def test_a_run_in_two_parts_is_the_run(run: Any) -> None:
    whole = run(latent=PICTURE)
    first = run(latent=PICTURE, last_step=3)
    nothing = prepare_empty_noise(PICTURE)
    second = run(latent=first, noise=nothing, start_step=3)
    torch.testing.assert_close(second, whole, atol=1e-4, rtol=1e-4)
    # Leftover noise, or none.
    assert first.std() > run(latent=PICTURE, last_step=3, force_full_denoise=True).std()
    torch.testing.assert_close(run(latent=PICTURE, start_step=6), PICTURE)


def test_little_denoise_stays_near_the_picture(run: Any) -> None:
    distances = [(run(latent=PICTURE, denoise=d, cfg=1.0) - PICTURE).abs().mean() for d in (0.05, 0.3, 1.0)]
    assert distances == sorted(distances)
    assert run(latent=PICTURE, denoise=0.0).equal(PICTURE)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_a_mask_keeps_the_rest(name: str, run: Any) -> None:
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1.0
    latent = run(latent=PICTURE, noise_mask=mask, sampler_name=name, scheduler="karras")
    if name not in ("dpm_fast", "dpm_adaptive"):
        # Those two end at the last level above 0.
        torch.testing.assert_close(latent[..., :4], PICTURE[..., :4], atol=2e-3, rtol=1e-3)
    assert (latent[..., 4:] - PICTURE[..., 4:]).abs().mean() > 0.1


def test_ddim_masks_with_other_noise(run: Any, patcher: ModelPatcher) -> None:
    mask = torch.ones(1, 8, 8) * 0.5
    assert run(sampler_name="ddim").equal(run(sampler_name="euler"))
    masked = [run(latent=PICTURE, sampler_name=name, noise_mask=mask) for name in ("ddim", "euler")]
    assert not masked[0].equal(masked[1])


def test_a_mask_that_changes_with_the_level(patcher: ModelPatcher) -> None:
    seen: list[tuple[float, int]] = []

    def function(sigma: Tensor, mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        seen.append((sigma.item(), len(extra_options["sigmas"])))
        return torch.zeros_like(mask)

    clone = patcher.clone()
    clone.set_model_denoise_mask_function(function)
    latent = sample_custom(
        clone,
        prepare_noise(PICTURE, 1),
        4.0,
        sampler_object("euler"),
        torch.tensor([3.0, 1.0, 0.0]),
        cond(1.0),
        cond(-1.0),
        PICTURE,
        noise_mask=torch.ones(8, 8),
    )
    assert seen == [(3.0, 3), (1.0, 3)]
    torch.testing.assert_close(latent, PICTURE)


def test_the_model_may_have_other_levels_on_a_clone(patcher: ModelPatcher) -> None:
    clone = patcher.clone()
    zero = levels.model_sampling(levels.ModelSamplingDiscrete, prediction.EPS, zsnr=True)
    clone.add_object_patch("model_sampling", zero)
    assert sigmas_for(clone, "euler", "normal", 5)[0].item() == pytest.approx(zero.sigma_max.item())
    assert sigmas_for(patcher, "euler", "normal", 5)[0].item() == pytest.approx(14.614641)


def test_callbacks_and_progress_and_interruption(run: Any) -> None:
    seen: list[tuple[int, int]] = []
    run(callback=lambda step, x0, x, total: seen.append((step, total)))
    assert seen == [(step, 6) for step in range(6)]

    class Stopped:
        job_id = "job"
        asked = 0

        def check_interrupted(self) -> None:
            self.asked += 1
            if self.asked > 3:
                raise comfyk.context.Interrupted

    stopped = Stopped()
    call = comfyk.context.NodeCall(stopped, "job", "1", None)  # type: ignore[arg-type]
    with comfyk.context.node_call(call), pytest.raises(comfyk.context.Interrupted):
        run()
    assert stopped.asked == 4


def test_a_failed_run_leaves_the_guider_usable(patcher: ModelPatcher) -> None:
    guider = CFGGuider(patcher)
    guider.set_conds(cond(1.0), cond(-1.0))
    noise, sigmas = prepare_noise(EMPTY, 1), torch.tensor([3.0, 0.0])

    def fail(*args: Any) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        guider.sample(noise, EMPTY, sampler_object("euler"), sigmas, callback=fail)
    assert guider.model_options is patcher.model_options
    assert guider.sample(noise, EMPTY, sampler_object("euler"), sigmas).isfinite().all()


def test_no_gradients_outside_of_a_job(run: Any) -> None:
    assert not run().requires_grad


def test_empty_latents_get_the_models_channels(patcher: ModelPatcher) -> None:
    assert fix_empty_latent(patcher, torch.zeros(2, 16, 8, 8)).shape == (2, 4, 8, 8)
    assert fix_empty_latent(patcher, torch.zeros(2, 3, 8, 8)).shape == (2, 4, 8, 8)
    kept = torch.ones(2, 16, 8, 8)
    assert fix_empty_latent(patcher, kept) is kept


def test_empty_latents_get_the_models_scale(patcher: ModelPatcher) -> None:
    assert fix_empty_latent(patcher, torch.zeros(2, 4, 8, 5), 8).shape == (2, 4, 16, 10)
    assert fix_empty_latent(patcher, torch.zeros(2, 16, 9, 8), 2).shape == (2, 4, 4, 4)
    assert fix_empty_latent(patcher, torch.zeros(2, 4, 8, 5), 4).shape == (2, 4, 8, 5)
    kept = torch.ones(2, 4, 8, 8)
    assert fix_empty_latent(patcher, kept, 8) is kept
