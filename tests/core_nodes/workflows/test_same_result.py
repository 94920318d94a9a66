"""Ways to say the same thing give the same latent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfyk.app import App
from torch import Tensor

Out = Callable[..., Any]
SEED, STEPS, CFG = 5, 3, 7.0


@pytest.fixture
def parts(studio: App, out: Out) -> dict[str, Any]:
    torch.manual_seed(0)
    with torch.inference_mode():
        model, clip, _ = out("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
        positive, negative = (out("CLIPTextEncode", text=text, clip=clip) for text in ("a house", "rain"))
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    return {"model": model, "positive": positive, "negative": negative, "latent_image": latent}


def common(**more: Any) -> dict[str, Any]:
    return {"steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "karras", **more}


@pytest.fixture
def ksampler(out: Out, parts: dict[str, Any]) -> Tensor:
    with torch.inference_mode():
        return out("KSampler", **parts, **common(seed=SEED, denoise=1.0))["samples"]


@torch.inference_mode()
def test_ksampler_advanced(out: Out, parts: dict[str, Any], ksampler: Tensor) -> None:
    def run(start: int, end: int, latent: Any, noise: str, left: str) -> Any:
        return out(
            "KSamplerAdvanced",
            **{**parts, "latent_image": latent},
            **common(noise_seed=SEED, start_at_step=start, end_at_step=end, add_noise=noise),
            return_with_leftover_noise=left,
        )

    whole = run(0, 10000, parts["latent_image"], "enable", "disable")
    torch.testing.assert_close(whole["samples"], ksampler)
    half = run(0, 2, parts["latent_image"], "enable", "enable")
    rest = run(2, 10000, half, "disable", "disable")
    torch.testing.assert_close(rest["samples"], ksampler, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_custom_samplers(out: Out, parts: dict[str, Any], ksampler: Tensor) -> None:
    model, latent = parts["model"], parts["latent_image"]
    conds = {"positive": parts["positive"], "negative": parts["negative"]}
    sigmas = out("BasicScheduler", model=model, scheduler="karras", steps=STEPS, denoise=1.0)
    sampler = out("KSamplerSelect", sampler_name="euler")
    guider = out("CFGGuider", model=model, cfg=CFG, **conds)
    noise = out("RandomNoise", noise_seed=SEED)
    result, denoised = out(
        "SamplerCustomAdvanced",
        noise=noise,
        guider=guider,
        sampler=sampler,
        sigmas=sigmas,
        latent_image=latent,
    )
    torch.testing.assert_close(result["samples"], ksampler)
    torch.testing.assert_close(denoised["samples"], ksampler, rtol=1e-3, atol=1e-3)
    result, _ = out(
        "SamplerCustom", add_noise=True, noise_seed=SEED, cfg=CFG, sampler=sampler, sigmas=sigmas, **parts
    )
    torch.testing.assert_close(result["samples"], ksampler)
    two = out("DualModelGuider", model=model, model_negative=model, cfg=CFG, **conds)
    result, _ = out(
        "SamplerCustomAdvanced", noise=noise, guider=two, sampler=sampler, sigmas=sigmas, latent_image=latent
    )
    torch.testing.assert_close(result["samples"], ksampler, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_cfg_override(out: Out, parts: dict[str, Any], ksampler: Tensor) -> None:
    model = out("CFGOverride", model=parts["model"], cfg=CFG, start_percent=0.0, end_percent=1.0)
    result = out("KSampler", **{**parts, "model": model}, **{**common(seed=SEED, denoise=1.0), "cfg": 2.0})
    torch.testing.assert_close(result["samples"], ksampler)
