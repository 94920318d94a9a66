"""How the cases are run. `call(node, **inputs)` runs one node and gives its output, a tuple if there are several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .cases import FLOW, KARRAS, SAMPLERS_WITH_MODEL, WITH_MODEL, Case, Settings

Call = Callable[..., Any]


class Network(nn.Module):
    """A smooth function of latent, timestep and text in place of a UNet, the same on every machine."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(sign * 0.5 * wave(4, 4), requires_grad=False)
        self.dtype = torch.float32

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, **more: Any) -> Tensor:
        if x.shape[1] > 4:
            x = x[:, :4] + 0.3 * x[:, 4:].mean(1, keepdim=True) * torch.arange(1, 5).view(1, 4, 1, 1)
        text = 0.0 if context is None else 8 * context.mean(1)[:, :4].view(-1, 4, 1, 1)
        mixed = torch.einsum("bchw,dc->bdhw", x, self.weight.to(x.dtype))
        return torch.tanh(mixed + text + timesteps.view(-1, 1, 1, 1) / 1000)


def wave(*shape: int, start: float = 0.0) -> Tensor:
    """Numbers in -1..1 that look like noise, without a generator."""
    count = torch.Size(shape).numel()
    return torch.sin((torch.arange(count, dtype=torch.float64) + start) * 12.9898).float().reshape(shape)


PICTURE = {"samples": 2 * wave(2, 4, 16, 24, start=5.0)}


def text(start: float, length: int = 77) -> Tensor:
    return wave(1, length, 64, start=start) + 0.05 * start


def mask(name: str) -> Tensor:
    if name == "ramp":
        return torch.linspace(0, 1, 48).view(1, 1, 48).expand(1, 32, 48)
    spot = torch.zeros(1, 128, 192)
    spot[:, 40:90, 64:120] = 0.8
    return spot


def numbers(latent: Any) -> list[float]:
    """Some values of a latent and its mean size."""
    samples: Tensor = latent["samples"].double().flatten()
    picked = samples[:: max(1, len(samples) // 7)][:7]
    return [*picked.tolist(), samples.abs().mean().item()]


def patched(call: Call, model: Any, patches: Sequence[Case]) -> Any:
    for node, settings in patches:
        model = call(node, model=model, **settings)
    return model


def schedule(call: Call, model: Any, case: Case) -> list[float]:
    node, settings = case
    more = {"model": model} if node in WITH_MODEL else {}
    return call(node, **more, **settings).tolist()


def levels(call: Call, model: Any, case: Case) -> list[float]:
    """Levels and timesteps of the patched model, and a short run with it."""
    flow = FLOW if case[0] == "ModelNoiseScale" else []
    model = patched(call, model, [*flow, case])
    sampling = model.get_model_object("model_sampling")
    table = sampling.sigmas
    middle = table[len(table) // 2]
    found = [table[0], middle, table[-1], sampling.timestep(middle), sampling.percent_to_sigma(0.3)]
    steps = torch.stack([table[-1], middle, table[len(table) // 4], table.new_zeros(())])
    sampler = call("KSamplerSelect", sampler_name="euler")
    return [*map(float, found), *numbers(guided(call, model, model, {"sigmas": steps.tolist()}, sampler)[0])]


def sampled(call: Call, model: Any, case: Case) -> list[float]:
    node, settings = case
    more = {"model": model} if node in SAMPLERS_WITH_MODEL else {}
    output, denoised = guided(call, model, model, {}, call(node, **more, **settings))
    return [*numbers(output), *numbers(denoised)]


def guided(call: Call, model: Any, second: Any, settings: Settings, sampler: Any = None) -> tuple[Any, Any]:
    """SamplerCustomAdvanced for an entry of `GUIDED`."""
    model = patched(call, model, settings.get("patches", []))
    length = settings.get("length", 77)
    positive = [[text(1.0, length), options_of(settings.get("positive", {}))]]
    if settings.get("more") or settings.get("default"):
        positive.append([text(3.0), {"default": True} if settings.get("default") else {}])
    negative = [[text(-2.0), options_of(settings.get("negative", {}))]]
    node, options = settings.get("guider", ("CFGGuider", {"cfg": settings.get("cfg", 4.0)}))
    inputs: Settings = {"model": model, "positive": positive, "negative": negative}
    if node == "BasicGuider":
        inputs = {"model": model, "conditioning": positive}
    elif node == "DualCFGGuider":
        inputs = {"model": model, "cond1": positive, "cond2": [[text(2.0), {}]], "negative": negative}
    elif node == "DualModelGuider" and settings.get("second", True):
        inputs["model_negative"] = second
    guider = call(node, **inputs, **options)
    noise, seed = settings.get("noise", ("RandomNoise", {"noise_seed": 7}))
    latent = dict(PICTURE)
    if "noise_mask" in settings:
        latent["noise_mask"] = mask(settings["noise_mask"])
    if "batch_index" in settings:
        latent["batch_index"] = settings["batch_index"]
    return call(
        "SamplerCustomAdvanced",
        noise=call(noise, **seed),
        guider=guider,
        sampler=sampler or call("KSamplerSelect", sampler_name=settings.get("sampler", "euler")),
        sigmas=torch.tensor(settings.get("sigmas", KARRAS)),
        latent_image=latent,
    )


def options_of(options: Settings) -> Settings:
    """What a conditioning is given: a mask by its name becomes the mask."""
    return {key: mask(value) if key == "mask" else value for key, value in options.items()}


class Encoder:
    """A VAE that takes the mean of 8 by 8 pixels."""

    downscale_ratio = 8

    def encode(self, pixels: Tensor) -> Tensor:
        channels = pixels[..., [0, 1, 2, 0]].movedim(-1, 1)
        return torch.nn.functional.avg_pool2d(channels, 8)

    def spacial_compression_encode(self) -> int:
        return 8


def edited(call: Call, name: str, inpainting: Any, editing: Any) -> list[float]:
    """Run one of `EDITS`, with the model for it."""
    positive, negative = [[text(1.0), {}]], [[text(-2.0), {}]]
    pixels = 0.5 + 0.5 * wave(2, 67, 100, 3, start=3.0)
    model, latent = inpainting, dict(PICTURE)
    if name == "edit by words":
        model = editing
        positive, negative, latent = call(
            "InstructPixToPixConditioning", positive=positive, negative=negative, vae=Encoder(), pixels=pixels
        )
    elif name == "inpaint without a picture":
        latent["noise_mask"] = mask("spot")
    else:
        positive, negative, latent = call(
            "InpaintModelConditioning",
            positive=positive,
            negative=negative,
            vae=Encoder(),
            pixels=pixels,
            mask=mask("spot"),
            noise_mask=name == "inpaint",
        )
    settings = {
        "seed": 3,
        "steps": 3,
        "cfg": 4.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    return numbers(
        call("KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **settings)
    )
