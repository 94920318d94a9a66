"""Patches come on and off exactly, clones share weights and nothing else, objects and options are each clone's own."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk.context import Interrupted, NodeCall, node_call
from comfyk_core_nodes.devices.device import register_device
from comfyk_core_nodes.memory.adapters import WeightAdapter
from comfyk_core_nodes.memory.manager import load_models_gpu, loaded_models, unload_all_models
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.memory.patches import patched_weight
from comfyk_core_nodes.memory.residency import residency_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from .conftest import CPU, GPU, OwnLayers, TorchLayers, build, from_file, patcher_of, same_bits, snapshot

KINDS = pytest.mark.parametrize("kind", [OwnLayers, TorchLayers])
X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(5))


def lora(seed: int, *keys: str) -> dict[str, WeightAdapter]:
    generator = torch.Generator().manual_seed(seed)

    def factor(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        key: WeightAdapter("lora", (factor(8, 2), factor(2, 8), 1.0, None, None, None))
        for key in keys or ("first.weight", "last.weight")
    }


def run(patcher: ModelPatcher, x: Tensor = X) -> Tensor:
    load_models_gpu([patcher])
    with torch.inference_mode():
        return patcher.model(x).clone()


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@given(strength=st.floats(-2, 2), seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_taking_patches_off_restores_every_bit(
    kind: Any, dtype: torch.dtype, strength: float, seeds: list[int]
) -> None:
    patcher = patcher_of(build(kind, dtype=dtype))
    before = snapshot(patcher.model)
    x = X.to(dtype)
    plain = run(patcher, x)
    patched = patcher.clone()
    for seed in seeds:
        patched.add_patches(lora(seed), strength)
    changed = run(patched, x)
    assert strength == 0 or abs(strength) < 0.1 or not torch.equal(changed, plain)
    assert torch.equal(run(patcher, x), plain)
    assert torch.equal(run(patched, x), changed)
    unload_all_models()
    assert same_bits(snapshot(patcher.model), before)


@KINDS
def test_strength_zero_changes_nothing(kind: Any) -> None:
    patcher = patcher_of(build(kind))
    plain = run(patcher)
    patched = patcher.clone()
    patched.add_patches(lora(1), 0.0)
    assert torch.equal(run(patched), plain)


@KINDS
@given(strengths=st.tuples(st.floats(-2, 2), st.floats(-2, 2)))
@settings(max_examples=10, deadline=None)
def test_two_loras_are_their_sum_in_any_order(kind: Any, strengths: tuple[float, float]) -> None:
    patcher = patcher_of(build(kind))
    together, turned = patcher.clone(), patcher.clone()
    for other, order in ((together, (0, 1)), (turned, (1, 0))):
        for n in order:
            other.add_patches(lora(n), strengths[n])
    torch.testing.assert_close(run(turned), run(together), rtol=1e-4, atol=1e-4)
    expected = build(kind)
    for key in ("first", "last"):
        weight = expected.get_submodule(key).weight
        for n in (0, 1):
            up, down = lora(n)[f"{key}.weight"].weights[:2]
            weight += strengths[n] * 0.5 * up @ down
    torch.testing.assert_close(run(together), expected(X), rtol=1e-4, atol=1e-4)


@KINDS
@given(order=st.lists(st.integers(0, 3), min_size=1, max_size=8))
@settings(max_examples=15, deadline=None)
def test_clones_come_in_any_order(kind: Any, order: list[int]) -> None:
    """Each clone gives what it gives alone, whatever was loaded before it."""

    def clones() -> list[ModelPatcher]:
        base = patcher_of(build(kind))
        made = [base, base.clone(), base.clone(), base.clone()]
        made[1].add_patches(lora(1, "first.weight"), 0.7)
        made[2].add_patches(lora(2), -0.5)
        made[3].add_patches(lora(1, "first.weight"), 0.7)
        made[3].add_patches({"last.bias": (torch.ones(8),)}, 2.0)
        return made

    expected = [run(each) for each in clones()[:0]] or [run(clones()[n]) for n in range(4)]
    shared = clones()
    for n in order:
        assert torch.equal(run(shared[n]), expected[n])


@KINDS
def test_only_what_differs_is_done(kind: Any) -> None:
    patcher = patcher_of(build(kind, dtype=torch.float16), weight_dtype=torch.float32)
    state = residency_of(patcher.model)
    run(patcher)
    everything = state.moved_bytes
    assert everything > 0
    run(patcher)
    run(patcher.clone())
    assert state.moved_bytes == everything
    patched = patcher.clone()
    patched.add_patches(lora(1, "first.weight"))
    run(patched)
    run(patched.clone())
    # A layer is the unit: its bias comes along, and what its kernel wants its weight padded with.
    assert 0 < state.moved_bytes - everything <= (16 * 64 + 8) * 4


@KINDS
def test_weights_are_cast_once_and_home_stays_in_the_file(kind: Any, tmp_path: Path) -> None:
    """No second copy: at home every weight is the mapped file's, and loading never writes to it."""
    model = build(kind, dtype=torch.float16)
    path = tmp_path / "model.safetensors"
    places = from_file(model, path)
    content = path.read_bytes()
    patcher = patcher_of(model, weight_dtype=torch.float32)
    patcher.add_patches(lora(1))
    run(patcher)
    homes = residency_of(model).home_state_dict(model)
    assert {key: homes[key].data_ptr() for key in places} == places
    unload_all_models()
    assert {key: value.data_ptr() for key, value in model.state_dict().items()} == places
    assert path.read_bytes() == content


@KINDS
def test_on_the_cpu_a_model_in_its_dtype_is_simply_there(kind: Any, tmp_path: Path) -> None:
    """torch's layers compute from the mapped file; a patch makes new tensors for the patched weights only."""
    model = build(kind)
    places = from_file(model, tmp_path / "model.safetensors")
    patcher = patcher_of(model)
    run(patcher)
    assert {key: value.data_ptr() for key, value in model.state_dict().items()} == places
    patched = patcher.clone()
    patched.add_patches(lora(1, "first.weight"))
    run(patched)
    moved = {key for key, value in model.state_dict().items() if value.data_ptr() != places[key]}
    assert moved <= {"first.weight"}


class Torn(Exception):
    pass


class StopsAfter:
    """A running job that is asked to stop: the `count`th time it is asked, it raises."""

    job_id = "job"

    def __init__(self, count: int, error: type[BaseException]) -> None:
        self.count = count
        self.error = error

    def check_interrupted(self) -> None:
        self.count -= 1
        if self.count < 0:
            raise self.error

    def progress(self, *_: Any, **__: Any) -> None: ...
    def progress_text(self, *_: Any) -> None: ...


@KINDS
@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("error", [Torn, Interrupted, KeyboardInterrupt, torch.OutOfMemoryError])
def test_an_exception_while_loading_leaves_the_model_unpatched(
    kind: Any, error: type[BaseException], loaded: bool
) -> None:
    """Wherever it comes, from a model at home or one that is loaded as another clone has it."""
    patcher = patcher_of(build(kind, dtype=torch.float16), weight_dtype=torch.float32)
    patcher.model.extra = 1
    before = snapshot(patcher.model)
    plain = run(patcher)
    patched = patcher.clone()
    patched.add_patches(lora(1))
    patched.add_object_patch("extra", 3)
    for count in range(2 if loaded else 5):
        unload_all_models()
        if loaded:
            load_models_gpu([patcher])
        with (
            pytest.raises(error),
            node_call(NodeCall(StopsAfter(count, error), "job", "1")),
        ):
            load_models_gpu([patched])
        assert same_bits(snapshot(patcher.model), before)
        assert patcher.model.extra == 1
        assert patched.loaded_size() == 0
        if kind is OwnLayers:
            assert all(not layer.weight_function for layer in (patcher.model.first, patcher.model.last))
    assert torch.equal(run(patcher), plain)


def test_the_first_exception_ends_loading_for_all_threads() -> None:
    """What is asked to stop does not go through the rest of a large model first."""

    class Layers(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(*(nn.Linear(4, 4) for _ in range(1000)))

    patcher = patcher_of(Layers(), weight_dtype=torch.float64)
    stops = StopsAfter(3, Torn)
    with pytest.raises(Torn), node_call(NodeCall(stops, "job", "1")):
        load_models_gpu([patcher])
    assert stops.count > -100
    assert next(patcher.model.parameters()).dtype == torch.float32
    assert patcher.loaded_size() == 0


def test_a_model_that_nobody_uses_is_freed_at_once() -> None:
    patcher = patcher_of(build(OwnLayers))
    patcher.add_patches(lora(1))
    run(patcher)
    model = weakref.ref(patcher.model)
    gc.disable()
    try:
        del patcher
        assert model() is None
    finally:
        gc.enable()
    assert not loaded_models()


def test_patches_of_another_model_merge(tmp_path: Path) -> None:
    """What the merging nodes do: a share of this model and a share of another, which has a LoRA of its own."""
    one, two = patcher_of(build(seed=1)), patcher_of(build(seed=2))
    two.add_patches(lora(3), 0.5)
    merged = one.clone()
    for key, patches in two.get_key_patches("first").items():
        merged.add_patches({key: patches}, 0.25, 0.75)
    saved = merged.model_state_dict_for_saving()
    other = two.model_state_dict_for_saving("first")
    torch.testing.assert_close(
        saved["first.weight"], 0.75 * one.model.first.weight + 0.25 * other["first.weight"]
    )
    torch.testing.assert_close(saved["first.bias"], 0.75 * one.model.first.bias + 0.25 * other["first.bias"])
    assert saved["last.weight"].data_ptr() == one.model.last.weight.data_ptr()
    result = run(merged)
    fresh = OwnLayers()
    fresh.load_state_dict(saved)
    torch.testing.assert_close(result, fresh(X), rtol=1e-4, atol=1e-5)


def test_what_is_saved_does_not_depend_on_what_is_loaded() -> None:
    patcher = patcher_of(build(TorchLayers, dtype=torch.float16), weight_dtype=torch.float32)
    patched = patcher.clone()
    patched.add_patches(lora(1))
    before = patched.model_state_dict_for_saving()
    plain = patcher.get_key_patches()
    run(patched)
    assert same_bits(patched.model_state_dict_for_saving(), before)
    assert before["first.weight"].dtype == torch.float16
    assert all(
        torch.equal(weights[0][0], plain[key][0][0]) for key, weights in patcher.get_key_patches().items()
    )


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16])
def test_a_patch_is_to_the_weight_as_it_is_kept(dtype: torch.dtype) -> None:
    model = build(OwnLayers)
    key, weight = "first.weight", model.first.weight.detach().clone()
    patcher = patcher_of(model, weight_dtype=dtype)
    patcher.model.manual_cast_dtype = torch.float32
    patcher.add_patches({key: (torch.full((8, 8), 0.3),)})
    load_models_gpu([patcher])
    expected = patched_weight(weight.to(dtype), patcher.patches[key], key, dtype)
    assert torch.equal(patcher.model.first.cast_weights(CPU, torch.float32)[0], expected.float())


def test_weights_stored_divided_by_a_scale() -> None:
    """A patch is to what the weight stands for, kept in fp8 or not."""
    model = build(OwnLayers)
    whole = model.first.weight.clone()
    model.first.scale_weight = torch.tensor(0.02)
    model.first.weight = nn.Parameter((whole / 0.02).to(torch.float8_e4m3fn), requires_grad=False)
    stands_for = model.first.weight.float() * 0.02
    change = torch.full((8, 8), 0.5)
    patcher = patcher_of(model)
    patcher.model.manual_cast_dtype = torch.float32
    patcher.add_patches({"first.weight": (change,)})
    load_models_gpu([patcher])
    kept = patcher.model.first.cast_weights(CPU, torch.float32)[0]
    torch.testing.assert_close(kept, stands_for + change, rtol=0.13, atol=0.01)
    saved = patcher.model_state_dict_for_saving("first.weight")["first.weight"]
    torch.testing.assert_close(saved.float(), stands_for + change, rtol=0.01, atol=0.01)
    unload_all_models()
    assert torch.equal(patcher.model.first.cast_weights(CPU, torch.float32)[0], stands_for)


def test_objects_are_replaced_while_loaded() -> None:
    patcher = patcher_of(build(OwnLayers))
    before = patcher.model.norm
    other = patcher.clone()
    other.add_object_patch("norm", nn.Identity())
    other.add_object_patch("forward", lambda x: x + 1)
    assert isinstance(other.get_model_object("norm"), nn.Identity)
    assert torch.equal(run(other), X + 1)
    assert patcher.get_model_object("norm") is before
    run(patcher)
    assert patcher.model.norm is before
    assert "forward" not in vars(patcher.model)
    plain = patcher.clone()
    plain.add_object_patch("first", "not a module")
    load_models_gpu([plain])
    assert plain.model.first == "not a module"
    unload_all_models()
    assert isinstance(patcher.model.first, nn.Module)
    wrong = patcher.clone()
    wrong.add_object_patch("norm", nn.Identity())
    wrong.add_object_patch("nowhere.at.all", 1)
    with pytest.raises(AttributeError):
        load_models_gpu([wrong])
    assert patcher.model.norm is before


def test_weight_wrappers_come_after_patches() -> None:
    for kind in (OwnLayers, TorchLayers):
        patcher = patcher_of(build(kind))
        wrapped = patcher.clone()
        wrapped.add_patches({"first.weight": (torch.ones(8, 8),)})
        wrapped.add_weight_wrapper("first.weight", lambda weight: weight * 0)
        expected = build(kind)
        expected.first.weight.zero_()
        torch.testing.assert_close(run(wrapped), expected(X))
        torch.testing.assert_close(run(patcher), build(kind)(X))


def test_clones_have_options_of_their_own() -> None:
    patcher = patcher_of(build(OwnLayers))
    patcher.set_model_attn2_patch("one")
    patcher.set_model_attn1_replace("a", "input", 4, 0)
    patcher.set_model_sampler_post_cfg_function(len)
    patcher.model_options["transformer_options"]["deep"] = {"list": [{"x": 1}]}
    clone = patcher.clone()
    clone.set_model_attn2_patch("two")
    clone.set_model_attn1_replace("b", "middle", 0)
    clone.set_model_sampler_post_cfg_function(max, disable_cfg1_optimization=True)
    clone.set_model_unet_function_wrapper(min)
    clone.model_options["transformer_options"]["deep"]["list"][0]["x"] = 2
    clone.add_patches(lora(1))
    clone.add_object_patch("norm", 1)
    options = patcher.model_options
    assert options["transformer_options"]["patches"] == {"attn2_patch": ["one"]}
    assert options["transformer_options"]["patches_replace"] == {"attn1": {("input", 4, 0): "a"}}
    assert options["transformer_options"]["deep"] == {"list": [{"x": 1}]}
    assert options["sampler_post_cfg_function"] == [len]
    assert "disable_cfg1_optimization" not in options and "model_function_wrapper" not in options
    assert clone.model_options["transformer_options"]["patches"]["attn2_patch"] == ["one", "two"]
    assert not patcher.patches and not patcher.object_patches
    assert clone.is_clone(patcher) and not clone.is_clone(patcher_of(build(OwnLayers)))
    assert patcher.clone_has_same_weights(patcher.clone()) and not patcher.clone_has_same_weights(clone)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("set_model_attn1_patch", "attn1_patch"),
        ("set_model_attn1_output_patch", "attn1_output_patch"),
        ("set_model_attn2_output_patch", "attn2_output_patch"),
        ("set_model_input_block_patch", "input_block_patch"),
        ("set_model_input_block_patch_after_skip", "input_block_patch_after_skip"),
        ("set_model_output_block_patch", "output_block_patch"),
        ("set_model_middle_block_after_patch", "middle_block_after_patch"),
        ("set_model_emb_patch", "emb_patch"),
    ],
)
def test_points_that_networks_are_patched_at(method: str, name: str) -> None:
    patcher = patcher_of(build(OwnLayers))
    getattr(patcher, method)(len)
    assert patcher.model_options["transformer_options"]["patches"] == {name: [len]}


def test_cfg_functions_of_the_old_kind_take_three_arguments() -> None:
    patcher = patcher_of(build(OwnLayers))
    patcher.set_model_sampler_cfg_function(lambda cond, uncond, cfg: uncond + cfg * (cond - uncond))
    assert (
        patcher.model_options["sampler_cfg_function"]({"cond": 3, "uncond": 1, "cond_scale": 2, "x": 0}) == 5
    )


def test_patches_that_bring_models_and_have_devices() -> None:
    class Patch:
        def __init__(self) -> None:
            self.inner = patcher_of(build(OwnLayers, seed=3))
            self.at: Any = None
            self.cleaned = 0

        def models(self) -> list[ModelPatcher]:
            return [self.inner]

        def to(self, where: Any) -> Patch:
            self.at = where
            return self

        def cleanup(self) -> None:
            self.cleaned += 1

    patch = Patch()
    patcher = patcher_of(build(OwnLayers))
    patcher.set_model_attn1_patch(patch)
    load_models_gpu([patcher])
    assert patch.at == CPU
    assert set(loaded_models()) == {patcher.model, patch.inner.model}
    patcher.cleanup()
    assert patch.cleaned == 1


def test_what_node_packs_add() -> None:
    happened: list[Any] = []

    class Injection:
        def inject(self, patcher: ModelPatcher) -> None:
            happened.append("in")

        def eject(self, patcher: ModelPatcher) -> None:
            happened.append("out")

    patcher = patcher_of(build(OwnLayers))
    patcher.add_callback("on_pre_run", lambda p: happened.append((p, p.model.current_patcher)))
    patcher.add_callback_with_key("on_eject_model", "pack", lambda p: happened.append("ejected"))
    patcher.add_wrapper_with_key("apply_model", "pack", len)
    patcher.set_attachments("note", 1)
    patcher.set_injections("pack", [Injection()])
    patcher.set_additional_models("more", [patcher_of(build(OwnLayers))])
    clone = patcher.clone()
    clone.remove_wrappers_with_key("apply_model", "pack")
    assert patcher.get_all_wrappers("apply_model") == [len] and not clone.get_all_wrappers("apply_model")
    assert patcher.get_wrappers("apply_model", "pack") == [len]
    assert patcher.get_wrappers("apply_model", None) == patcher.get_callbacks("on_eject_model", None) == []
    assert patcher.get_callbacks("on_eject_model", "pack") == patcher.get_all_callbacks("on_eject_model")
    assert clone.get_attachment("note") == 1
    assert clone.get_additional_models()[0].is_clone(patcher.get_additional_models()[0])
    load_models_gpu([clone])
    unload_all_models()
    clone.pre_run()
    assert happened == ["in", "out", "ejected", (clone, clone)]
    clone.cleanup()
    assert clone.model.current_patcher is None


def test_other_kinds_of_devices_can_be_registered(budgeted: Any) -> None:
    device = budgeted(10**6)
    register_device(device)
    patcher = patcher_of(build(TorchLayers), GPU)
    run(patcher)
    assert patcher.current_loaded_device() == GPU
    assert patcher.loaded_size() == patcher.model_size() > 0
