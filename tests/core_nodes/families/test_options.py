"""What the options for precision and memory make of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk_core_nodes.families.checkpoint import Checkpoint, load_checkpoint
from comfyk_core_nodes.memory.manager import load_models_gpu
from comfyk_core_nodes.weights.dtypes import DTYPES
from safetensors.torch import save_file
from torch import Tensor

pytestmark = pytest.mark.usefixtures("seeded")

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def load(tmp_path: Path, checkpoint_state: Callable[..., dict[str, Tensor]]) -> Callable[[], Any]:
    path = tmp_path / "model.safetensors"
    save_file({key: value.contiguous() for key, value in checkpoint_state("sd1").items()}, path)
    return lambda: load_checkpoint(path)


def step(found: Checkpoint) -> Tensor:
    """The loaded model on fixed noise."""
    assert found.model is not None
    load_models_gpu([found.model])
    generator = torch.Generator().manual_seed(3)
    x, context = (torch.randn(shape, generator=generator) for shape in ((1, 4, 8, 8), (1, 77, 64)))
    return found.model.model.apply_model(x, torch.tensor([2.0]), c_crossattn=context)


@pytest.mark.parametrize("name", ["fp64", "bf16", "fp16", "fp8_e4m3fn", "fp8_e5m2"])
def test_the_dtype_of_the_unet(load: Any, use: Any, name: str) -> None:
    """Weights take what that dtype takes, and results are those of fp32 weights but for its precision."""
    plain = load()
    expected = step(plain)
    size = plain.model.model_size()
    use(unet_dtype=name)
    found = load()
    result = step(found)
    assert found.model.weight_dtype == DTYPES[name]
    assert found.model.model_size() == pytest.approx(size * DTYPES[name].itemsize / 4, rel=0.05)
    assert found.model.loaded_size() <= found.model.model_size()
    assert result.dtype == torch.float32
    error = float((result - expected).abs().mean() / expected.abs().mean())
    assert error < (1e-5 if name == "fp64" else 0.4 if "fp8" in name else 0.02)
    assert error > 0


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16", "fp8_e4m3fn", "fp8_e5m2"])
def test_the_dtype_of_the_text_encoder(load: Any, use: Any, name: str) -> None:
    use(text_encoder_dtype=name)
    clip = load().clip
    assert clip.patcher.weight_dtype == DTYPES[name]
    cond, _ = clip.encode_from_tokens(clip.tokenize("a house"), return_pooled=True)
    assert cond.dtype == torch.float32
    assert bool(cond.isfinite().all())


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_the_dtype_of_the_vae(load: Any, use: Any, name: str) -> None:
    latent = torch.randn(1, 4, 2, 2)
    expected = load().vae.decode(latent)
    use(vae_dtype=name)
    vae = load().vae
    assert vae.vae_dtype == DTYPES[name]
    assert vae.first_stage_model.decoder.conv_in.weight.dtype == torch.float32  # as in the file
    result = vae.decode(latent)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, atol=0.05, rtol=0)


def test_the_dtype_between_nodes(load: Any, use: Any) -> None:
    """`--fp16-intermediates`."""
    use(fp16_intermediates=True)
    vae = load().vae
    latent, picture = torch.randn(1, 4, 2, 2), torch.rand(1, 16, 16, 3)
    for result in (
        vae.decode(latent),
        vae.decode_tiled(latent),
        vae.encode(picture),
        vae.encode_tiled(picture),
    ):
        assert result.dtype == torch.float16


@pytest.mark.parametrize(
    ("settings", "runs", "kept"),
    [
        ({}, (CUDA, CUDA, CUDA), (CPU, CPU, CPU)),
        ({"vram": "low"}, (CUDA, CPU, CUDA), (CPU, CPU, CPU)),
        ({"vram": "none"}, (CUDA, CPU, CUDA), (CPU, CPU, CPU)),
        ({"vram": "high"}, (CUDA, CUDA, CUDA), (CUDA, CPU, CPU)),
        ({"vram": "gpu-only"}, (CUDA, CUDA, CUDA), (CUDA, CUDA, CUDA)),
        ({"vae_on_cpu": True}, (CUDA, CUDA, CPU), (CPU, CPU, CPU)),
    ],
)
def test_where_the_parts_run_and_are_kept(
    load: Any,
    use: Any,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    runs: tuple[torch.device, ...],
    kept: tuple[torch.device, ...],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    use(unet_dtype="fp32", vae_dtype="fp32", text_encoder_dtype="fp32", **settings)
    found = load()
    parts = (found.model, found.clip.patcher, found.vae.patcher)
    assert tuple(part.load_device for part in parts) == runs
    assert tuple(part.offload_device for part in parts) == kept
    assert found.vae.device == runs[2]


def test_on_the_cpu_though_there_is_a_gpu(load: Any, app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--cpu`."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    app.settings.section("device").device = "cpu"
    found = load()
    assert {part.load_device for part in (found.model, found.clip.patcher, found.vae.patcher)} == {CPU}
    assert found.vae.device == CPU
