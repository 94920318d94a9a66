"""Room on a device of a known size: who goes, how much of a model stays, and that streaming changes no result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfyk_core_nodes.devices import settings
from comfyk_core_nodes.devices.device import device_of
from comfyk_core_nodes.memory import manager
from comfyk_core_nodes.memory.manager import (
    free_memory,
    load_models_gpu,
    loaded_models,
    unload_all_models,
    unload_model_and_clones,
)
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.memory.residency import residency_of
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn

from .conftest import (
    CPU,
    GPU,
    BudgetedCpu,
    OwnLayers,
    TorchLayers,
    build,
    from_file,
    patcher_of,
    same_bits,
    snapshot,
)
from .test_patcher import KINDS, X, lora

SIZE = patcher_of(build(TorchLayers)).model_size()


def use(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    monkeypatch.setattr(settings, "_DEFAULTS", settings.DeviceSettings(**values))


def models(count: int, kind: Any = TorchLayers) -> list[ModelPatcher]:
    return [patcher_of(build(kind, seed=n), GPU) for n in range(count)]


def run(patcher: ModelPatcher, x: Tensor = X, memory_required: int = 0) -> Tensor:
    load_models_gpu([patcher], memory_required=memory_required)
    with torch.inference_mode():
        return patcher.model(x).clone()


def test_the_least_recently_used_goes_first(budgeted: Any) -> None:
    budgeted(3 * SIZE)
    a, b, c, d = models(4)
    for each in (a, b, c, a):
        load_models_gpu([each])
    assert loaded_models() == [a.model, c.model, b.model]
    load_models_gpu([d])
    assert loaded_models() == [d.model, a.model, c.model]
    assert b.loaded_size() == 0
    assert [each.loaded_size() for each in (a, c, d)] == [SIZE] * 3
    assert residency_of(b.model).wanted is None
    # A clone that is gone at once leaves its model loaded, and known to be.
    load_models_gpu([c.clone()])
    assert loaded_models() == [c.model, d.model, a.model]


def test_only_as_much_is_taken_off_as_is_needed(budgeted: Any) -> None:
    device = budgeted(2 * SIZE)
    a, b = models(2)
    load_models_gpu([a])
    load_models_gpu([b], memory_required=SIZE // 4)
    assert 0 < a.loaded_size() <= SIZE - SIZE // 4
    assert b.loaded_size() == SIZE
    assert device.free() >= SIZE // 4
    plain = build(TorchLayers, seed=0)(X)
    # Used again, what is left of it is filled up again.
    assert torch.equal(run(a, memory_required=SIZE // 4), plain)
    assert a.loaded_size() == SIZE


def test_freeing_memory_spares_what_is_to_stay(budgeted: Any) -> None:
    budgeted(3 * SIZE)
    a, b, c = models(3)
    load_models_gpu([a, b, c])
    gone = free_memory(3 * SIZE, GPU, keep_loaded=[a.clone()])
    assert gone == [c.model, b.model]
    assert loaded_models() == [a.model]
    assert free_memory(0, GPU) == []
    assert free_memory(10**9, CPU) == []
    unload_model_and_clones(a.clone())
    assert not loaded_models() and a.loaded_size() == 0


def test_unloading_all_tells_what_that_was(budgeted: Any) -> None:
    device = budgeted(3 * SIZE)
    a, b = models(2)
    before = snapshot(a.model)
    load_models_gpu([a, b])
    assert device.free() == SIZE
    assert unload_all_models() == (2, 2 * SIZE)
    assert device.free() == 3 * SIZE
    assert same_bits(snapshot(a.model), before)
    assert unload_all_models() == (0, 0)


@KINDS
@given(share=st.floats(0, 1.2), patched=st.booleans(), dtype=st.sampled_from([torch.float32, torch.float16]))
@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_streaming_changes_no_result(
    kind: Any, share: float, patched: bool, dtype: torch.dtype, budgeted: Any
) -> None:
    """Whatever fits, the result is that of the whole model, and no more is on the device than may be."""
    unload_all_models()
    patcher = ModelPatcher(build(kind, dtype=torch.float16), GPU, CPU, weight_dtype=dtype)
    patcher.model.manual_cast_dtype = dtype
    before = snapshot(patcher.model)
    if patched:
        patcher.add_patches(lora(1), 0.5)
    x = X.to(dtype)
    budgeted(10**6)
    whole = run(patcher, x)
    size = patcher.loaded_size()
    unload_all_models()
    device: BudgetedCpu = budgeted(int(share * size))
    # Without a compute copy the CPU takes another kernel, which adds up in another order.
    exact = {"rtol": 0, "atol": 0} if kind is TorchLayers else {}
    torch.testing.assert_close(run(patcher, x), whole, **exact)
    # What cannot be streamed is there whatever the budget says: buffers, and weights that others read.
    least = sum(
        bytes_
        for bytes_, streams in residency_of(patcher.model)._sizes(patcher.model, patcher._wanted()).values()
        if not streams
    )
    assert patcher.loaded_size() <= max(device.limit, least)
    if share >= 1:
        assert patcher.loaded_size() == size
    unload_all_models()
    assert same_bits(snapshot(patcher.model), before)


@KINDS
def test_an_exception_in_a_streamed_forward_brings_the_weights_home(kind: Any, budgeted: Any) -> None:
    budgeted(0)
    patcher = patcher_of(build(kind), GPU)
    before = snapshot(patcher.model)
    load_models_gpu([patcher])
    with pytest.raises(RuntimeError):
        patcher.model(torch.ones(2, 3, 9))
    unload_all_models()
    assert same_bits(snapshot(patcher.model), before)
    assert torch.allclose(run(patcher), build(kind)(X), atol=1e-5)


def test_models_together_share_the_room(budgeted: Any) -> None:
    """A ControlNet that comes with a U-Net is whole; the U-Net, named first, is streamed in part."""
    budgeted(int(1.5 * SIZE))
    unet, control = models(2)
    load_models_gpu([unet, control])
    assert control.loaded_size() == SIZE
    assert 0 < unet.loaded_size() <= SIZE // 2
    assert loaded_models() == [unet.model, control.model]


def test_a_model_is_loaded_once_however_often_it_is_named(budgeted: Any) -> None:
    budgeted(2 * SIZE)
    (a,) = models(1)
    load_models_gpu([a, a])
    assert residency_of(a.model).moved_bytes == SIZE


@pytest.mark.parametrize(
    ("vram", "expected"), [("auto", "part"), ("low", "part"), ("none", "streamed"), ("high", "whole")]
)
def test_how_much_of_the_memory_is_used(
    vram: str, expected: str, budgeted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, vram=vram)
    budgeted(SIZE // 2)
    (a,) = models(1)
    plain = build(TorchLayers)(X)
    assert torch.equal(run(a), plain)
    share = a.loaded_size() / SIZE
    pinned = a.model.gain.nbytes + 3 * 8 * 4  # weights that cannot be streamed are few
    if expected == "part":
        assert 0 < share <= 0.5
    elif expected == "whole":
        assert share == 1
    else:
        assert a.loaded_size() <= pinned + a.model.attention.out_proj.weight.nbytes


@pytest.mark.parametrize(("vram", "kept"), [("none", False), ("auto", True)])
def test_without_memory_for_weights_all_are_streamed(
    vram: str, kept: bool, budgeted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--novram`: however much room there is."""
    use(monkeypatch, vram=vram)
    budgeted(100 * SIZE)
    model = patcher_of(build(OwnLayers), GPU)
    torch.testing.assert_close(run(model), build(OwnLayers)(X))
    assert model.loaded_size() == (model.model_size() if kept else 0)


def test_a_model_may_be_loaded_whole_all_the_same(budgeted: Any) -> None:
    budgeted(SIZE // 2)
    (a,) = models(1)
    load_models_gpu([a], force_full_load=True)
    assert a.loaded_size() == SIZE


def test_without_smart_memory_others_go_at_once(budgeted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, smart_memory=False)
    budgeted(10 * SIZE)
    a, b = models(2)
    load_models_gpu([a])
    load_models_gpu([b])
    assert loaded_models() == [b.model]


def test_memory_that_others_take_is_not_there(budgeted: Any) -> None:
    device = budgeted(2 * SIZE)
    (a,) = models(1)
    device.taken.append(2 * SIZE - SIZE // 3)
    load_models_gpu([a])
    assert a.loaded_size() <= SIZE // 3
    device.taken.clear()
    load_models_gpu([a])
    assert a.loaded_size() == SIZE


def test_some_memory_is_kept_for_the_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_DEFAULTS", settings.DeviceSettings(reserve_gb=2))
    gb = 1024**3
    assert manager._inference_memory(GPU, 0) == int(2.8 * gb)
    assert manager._inference_memory(GPU, 3 * gb) == 5 * gb
    assert manager._inference_memory(CPU, 100) == 100


def test_main_memory_is_a_budget_too(budgeted: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """On the CPU compute copies are dropped for other models; what is used from the file as it is takes nothing."""
    mapped = patcher_of(build(TorchLayers))
    from_file(mapped.model, tmp_path / "model.safetensors")
    load_models_gpu([mapped])
    assert mapped.loaded_size() == 0
    a = patcher_of(build(OwnLayers))
    load_models_gpu([a])
    assert a.loaded_size() > 0
    assert free_memory(device_of(CPU).free() + 10**12, CPU) != []
    assert a.loaded_size() == 0
    torch.testing.assert_close(run(a), build(OwnLayers)(X))


def test_layers_without_a_forward_of_their_own_are_not_streamed(budgeted: Any) -> None:
    """A schedule in buffers is read by whoever asks; it is there whatever fits, in the precision that it has."""

    class Schedule(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("sigmas", torch.linspace(0, 1, 9, dtype=torch.float64))

    model = build(TorchLayers)
    model.model_sampling = Schedule()
    budgeted(0)
    patcher = ModelPatcher(model, GPU, CPU, weight_dtype=torch.float16)
    run(patcher, X.half())
    held = residency_of(model)
    assert "model_sampling.sigmas" in held.homes
    assert model.model_sampling.sigmas.dtype == torch.float64
    assert "first.weight" not in held.homes
