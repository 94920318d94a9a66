"""Making, scaling, cutting, joining and computing with latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Out = Callable[..., Any]
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
shapes = st.sampled_from([(1, 4, 5, 6), (3, 16, 2, 9), (2, 4, 3, 5, 6)])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latent(*shape: int, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"samples": random(*shape, seed=seed), **more}


def test_empty(out: Out) -> None:
    made = out("EmptyLatentImage", width=80, height=24, batch_size=2)
    assert made["samples"].shape == (2, 4, 3, 10)
    assert made["samples"].count_nonzero() == 0
    assert made["samples"].dtype == torch.float32
    assert made["downscale_ratio_spacial"] == 8


def scale(
    out: Out, value: dict[str, Any], method: str, width: int, height: int, crop: str = "disabled"
) -> Any:
    return out("LatentUpscale", samples=value, upscale_method=method, width=width, height=height, crop=crop)


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"])
def test_scaling_keeps_what_is_even(out: Out, method: str) -> None:
    value = {"samples": torch.tensor([1.0, -2, 0.5, 3]).reshape(1, 4, 1, 1).expand(2, 4, 8, 12), "type": "x"}
    for crop in ("disabled", "center"):
        scaled = scale(out, value, method, 80, 120, crop)
        assert scaled["type"] == "x"
        assert scaled["samples"].shape == (2, 4, 15, 10)
        assert torch.allclose(scaled["samples"], value["samples"][..., :1, :1], atol=1e-5)
    video = {"samples": random(2, 4, 3, 8, 12)}
    frames = scale(out, video, method, 80, 120, "center")["samples"]
    assert frames.shape == (2, 4, 3, 15, 10)
    for number in range(3):
        alone = scale(out, {"samples": video["samples"][:, :, number]}, method, 80, 120, "center")
        assert torch.equal(frames[:, :, number], alone["samples"])


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (128, 256, (32, 16)),
        (8, 8, (8, 8)),
        # A 0 follows from the other side, and 64 pixels are the least.
        (0, 128, (16, 24)),
        (240, 0, (20, 30)),
        (0, 8, (8, 12)),
    ],
)
def test_sizes_of_a_scaled_latent(out: Out, width: int, height: int, expected: tuple[int, int]) -> None:
    assert scale(out, latent(1, 4, 8, 12), "area", width, height)["samples"].shape[2:] == expected


def test_no_size_changes_nothing(out: Out) -> None:
    value = latent(1, 4, 8, 12)
    assert scale(out, value, "area", 0, 0) is value


def test_scale_by(out: Out) -> None:
    value = latent(1, 4, 8, 12)
    assert out("LatentUpscaleBy", samples=value, upscale_method="bicubic", scale_by=1.5)["samples"].shape == (
        1,
        4,
        12,
        18,
    )
    assert out("LatentUpscaleBy", samples=value, upscale_method="area", scale_by=0.01)["samples"].numel() == 4


def bislerp(out: Out, samples: torch.Tensor, by: float) -> torch.Tensor:
    return out("LatentUpscaleBy", samples={"samples": samples}, upscale_method="bislerp", scale_by=by)[
        "samples"
    ]


def test_bislerp_turns_and_stretches(out: Out) -> None:
    # From a length of 1 to the right to one of 3 upwards, a quarter and three quarters of the way.
    samples = torch.zeros(1, 2, 1, 2)
    samples[0, 0, 0, 0], samples[0, 1, 0, 1] = 1, 3
    turned = bislerp(out, samples, 2.0)[0, :, 0].T
    for vector, angle, length in zip(turned, (0, 22.5, 67.5, 90), (1, 1.5, 2.5, 3), strict=True):
        assert vector.norm().item() == pytest.approx(length, abs=1e-5)
        assert math.degrees(math.atan2(vector[1], vector[0])) == pytest.approx(angle, abs=1e-3)


def test_bislerp_of_equal_opposite_and_no_directions(out: Out) -> None:
    same = torch.tensor([[1.0, 2.0]]).reshape(1, 1, 1, 2)
    assert bislerp(out, same, 2.0)[0, 0, 0].tolist() == [1, 1, 1, 2]
    opposite = torch.tensor([[1.0, -1.0]]).reshape(1, 1, 1, 2)
    assert bislerp(out, opposite, 2.0)[0, 0, 0].tolist() == pytest.approx([1, 0.5, -0.5, -1])
    nothing = torch.tensor([[0.0, 2.0]]).reshape(1, 1, 1, 2)
    assert torch.isfinite(bislerp(out, nothing, 2.0)).all()
    half = bislerp(out, random(1, 4, 6, 6).half(), 1.5)
    assert half.dtype == torch.float16


def test_noise_mask(out: Out) -> None:
    value = latent(2, 4, 2, 2)
    masked = out("SetLatentNoiseMask", samples=value, mask=torch.rand(16, 16))
    assert masked["noise_mask"].shape == (1, 1, 16, 16)
    assert masked["samples"] is value["samples"]
    assert "noise_mask" not in value


@quick
@given(st.integers(8, 20), st.integers(8, 20), st.integers(0, 25), st.integers(0, 25))
def test_crop(out: Out, height: int, width: int, x: int, y: int) -> None:
    value = latent(1, 4, height, width)
    cropped = out("LatentCrop", samples=value, width=64, height=72, x=8 * x, y=8 * y)["samples"]
    x, y = min(x, width - 8), min(y, height - 8)
    assert torch.equal(cropped, value["samples"][..., y : y + 9, x : x + 8])
    assert cropped.shape[3] == 8


def test_crop_of_a_tiny_latent_is_the_latent(out: Out) -> None:
    value = latent(1, 4, 3, 3)
    assert torch.equal(
        out("LatentCrop", samples=value, width=64, height=64, x=80, y=0)["samples"], value["samples"]
    )


DIMS = {"x": -1, "y": -2, "t": -3}


@quick
@given(shapes, st.sampled_from(["x", "y", "t"]), st.booleans())
def test_concat_and_cut_are_inverse(out: Out, shape: tuple[int, ...], axis: str, first: bool) -> None:
    a, b = latent(*shape, batch_index=[7]), latent(*shape, seed=1)
    joined = out("LatentConcat", samples1=a, samples2=b, dim="-" + axis if first else axis)
    assert joined["batch_index"] == [7]
    size = shape[DIMS[axis]]
    parts = [
        out("LatentCut", samples=joined, dim=axis, index=at, amount=size)["samples"] for at in (0, -size)
    ]
    expected = [b, a] if first else [a, b]
    for part, one in zip(parts, expected, strict=True):
        assert torch.equal(part, one["samples"])


def test_concat_repeats_and_names_what_does_not_fit(out: Out) -> None:
    a, b = latent(3, 4, 2, 2), latent(1, 4, 2, 5)
    joined = out("LatentConcat", samples1=a, samples2=b, dim="x")["samples"]
    assert torch.equal(joined[2, ..., 2:], b["samples"][0])
    with pytest.raises(ValueError, match="cannot be joined along y"):
        out("LatentConcat", samples1=a, samples2=b, dim="-y")


@pytest.mark.parametrize(
    ("index", "amount", "expected"),
    [(0, 1, [0]), (3, 9, [3, 4]), (99, 1, [4]), (-2, 1, [3]), (-2, 9, [3, 4]), (-99, 2, [0, 1])],
)
def test_cut(out: Out, index: int, amount: int, expected: list[int]) -> None:
    value = {"samples": torch.arange(5.0).reshape(1, 1, 1, 5)}
    assert out("LatentCut", samples=value, dim="x", index=index, amount=amount)[
        "samples"
    ].flatten().tolist() == (expected)


def test_cut_to_batch(out: Out) -> None:
    video = latent(2, 4, 5, 3, 3)
    frames = out("LatentCutToBatch", samples=video, dim="t", slice_size=2)["samples"]
    assert frames.shape == (4, 4, 2, 3, 3)
    samples = video["samples"]
    assert torch.equal(frames, torch.cat([samples[0:1, :, :2], samples[0:1, :, 2:4],
                                          samples[1:, :, :2], samples[1:, :, 2:4]]))  # fmt: skip
    assert out("LatentCutToBatch", samples=video, dim="x", slice_size=99)["samples"].shape == (2, 4, 5, 3, 3)
    picture = latent(1, 4, 3, 3)
    assert out("LatentCutToBatch", samples=picture, dim="t", slice_size=1)["samples"] is picture["samples"]


@quick
@given(shapes, st.floats(-10, 10))
def test_arithmetic(out: Out, shape: tuple[int, ...], factor: float) -> None:
    a, b = latent(*shape, noise_mask="kept"), latent(*shape, seed=1)
    total = out("LatentAdd", samples1=a, samples2=b)
    assert total["noise_mask"] == "kept"
    back = out("LatentSubtract", samples1=total, samples2=b)["samples"]
    assert torch.allclose(back, a["samples"], atol=1e-5)
    assert torch.equal(out("LatentMultiply", samples=a, multiplier=factor)["samples"], a["samples"] * factor)
    assert torch.equal(a["samples"], random(*shape))


def test_arithmetic_of_other_sizes_and_batches(out: Out) -> None:
    a, b = latent(3, 4, 6, 6), {"samples": torch.full((1, 4, 2, 8), 2.0)}
    assert torch.allclose(out("LatentAdd", samples1=a, samples2=b)["samples"], a["samples"] + 2)
    for wrong in (latent(1, 16, 6, 6), latent(1, 4, 3, 6, 6)):
        with pytest.raises(ValueError, match="cannot be put together"):
            out("LatentAdd", samples1=a, samples2=wrong)


def test_blend(out: Out) -> None:
    a, b = latent(1, 4, 6, 6), latent(1, 4, 6, 6, seed=1)
    mixed = out("LatentBlend", samples1=a, samples2=b, blend_factor=0.25)["samples"]
    assert torch.allclose(mixed, a["samples"] * 0.25 + b["samples"] * 0.75)
    other = {"samples": torch.ones(1, 4, 3, 9)}
    assert torch.allclose(out("LatentBlend", samples1=a, samples2=other, blend_factor=0.0)["samples"],
                          torch.ones(1, 4, 6, 6), atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("batch", [1, 4])
def test_interpolate(out: Out, batch: int) -> None:
    a, b = latent(batch, 4, 5, 6), latent(batch, 4, 5, 6, seed=1)
    for ratio, one in ((1.0, a), (0.0, b)):
        mixed = out("LatentInterpolate", samples1=a, samples2=b, ratio=ratio)["samples"]
        assert torch.allclose(mixed, one["samples"], atol=1e-5)
    half = out("LatentInterpolate", samples1=a, samples2=b, ratio=0.5)["samples"]
    length = (a["samples"].norm(dim=1) + b["samples"].norm(dim=1)) / 2
    assert torch.allclose(half.norm(dim=1), length, atol=1e-5)
    # Items of a batch know nothing of each other.
    alone = out(
        "LatentInterpolate",
        samples1={"samples": a["samples"][-1:]},
        samples2={"samples": b["samples"][-1:]},
        ratio=0.5,
    )["samples"]
    assert torch.allclose(alone, half[-1:])
    zeros = {"samples": torch.zeros(1, 4, 2, 2)}
    assert torch.equal(
        out("LatentInterpolate", samples1=zeros, samples2=zeros, ratio=0.3)["samples"], zeros["samples"]
    )


def test_frames_are_replaced(out: Out) -> None:
    video, new = latent(1, 4, 5, 2, 2), latent(1, 4, 2, 2, 2, seed=1, type="x")
    before = video["samples"].clone()
    for index in (1, -4):
        result = out("ReplaceVideoLatentFrames", destination=video, source=new, index=index)
        assert torch.equal(result["samples"][:, :, 1:3], new["samples"])
        assert torch.equal(result["samples"][:, :, [0, 3, 4]], before[:, :, [0, 3, 4]])
        assert result["type"] == "x"
    assert torch.equal(video["samples"], before)


def test_frames_that_do_not_fit_are_not_there(out: Out, caplog: pytest.LogCaptureFixture) -> None:
    video, new = latent(1, 4, 5, 2, 2), latent(1, 4, 2, 2, 2)
    for index in (4, 5, 6, -1, -6):
        assert out("ReplaceVideoLatentFrames", destination=video, source=new, index=index) is video
    assert len(caplog.messages) == 5
    assert out("ReplaceVideoLatentFrames", destination=video, index=0) is video


def test_reinhard(out: Out) -> None:
    tonemap = out("LatentOperationTonemapReinhard", multiplier=0.5)
    value = latent(2, 4, 5, 6)
    mapped = out("LatentApplyOperation", samples=value, operation=tonemap)["samples"]
    for item, result in zip(value["samples"], mapped, strict=True):
        length = item.norm(dim=0)
        top = (5 * length.std() + length.mean()) * 0.5
        assert torch.allclose(result.norm(dim=0), length / (1 + length / top), atol=1e-5)
        assert torch.allclose(torch.cosine_similarity(item, result, dim=0), torch.tensor(1.0), atol=1e-5)
    assert torch.equal(value["samples"], random(2, 4, 5, 6))


@pytest.mark.parametrize("frames", [(), (3,)])
def test_sharpen(out: Out, frames: tuple[int, ...]) -> None:
    even = {"samples": torch.full((1, 4, *frames, 8, 8), -2.0)}
    step = {"samples": even["samples"].clone()}
    step["samples"][..., :4] = 1.0
    sharpen = out("LatentOperationSharpen", sharpen_radius=2, sigma=1.0, alpha=0.1)
    assert torch.allclose(
        out("LatentApplyOperation", samples=even, operation=sharpen)["samples"], even["samples"], atol=1e-5
    )
    row = out("LatentApplyOperation", samples=step, operation=sharpen)["samples"][0, 0].reshape(-1, 8)[0]
    assert row[3] > 1.1
    assert row[4] < -2.2
    assert torch.allclose(row[[0, 1, 6, 7]], torch.tensor([1.0, 1, -2, -2]), atol=1e-5)
    nothing = out("LatentOperationSharpen", sharpen_radius=2, sigma=1.0, alpha=0.0)
    value = latent(2, 4, *frames, 5, 5)
    assert torch.allclose(
        out("LatentApplyOperation", samples=value, operation=nothing)["samples"], value["samples"], atol=1e-5
    )
    with pytest.raises(ValueError, match="sharpen_radius 2 is too large"):
        sharpen(latent=random(1, 4, 2, 8))


class Model:
    """Stands for a ModelPatcher."""

    def __init__(self) -> None:
        self.functions: list[Callable[..., Any]] = []

    def clone(self) -> Model:
        return Model()

    def set_model_sampler_pre_cfg_function(self, function: Callable[..., Any]) -> None:
        self.functions.append(function)


def test_an_operation_on_guidance(out: Out) -> None:
    model = Model()
    patched = out("LatentApplyOperationCFG", model=model, operation=lambda latent: latent * 2)
    assert not model.functions
    (function,) = patched.functions
    cond, uncond = random(1, 4, 2, 2), random(1, 4, 2, 2, seed=1)
    both = [cond, uncond]
    result = function({"conds_out": both})
    assert torch.allclose(result[0], 2 * (cond - uncond) + uncond)
    assert result[1] is uncond
    assert both[0] is cond
    assert torch.equal(function({"conds_out": [cond]})[0], cond * 2)
