"""A control through a run: hints, strengths, ranges and chains; difference ControlNets and control-LoRAs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfyk_core_nodes.control.base import ControlBase, StrengthType, fit_picture, spread_hint
from comfyk_core_nodes.control.controlnet import ControlLora, ControlNet
from comfyk_core_nodes.control.layouts import diffusers_controlnet_to_original
from comfyk_core_nodes.control.load import load_controlnet
from comfyk_core_nodes.control.names import UNION_CONTROLNET_TYPES, union_type_numbers
from comfyk_core_nodes.memory.manager import load_models_gpu
from comfyk_core_nodes.sampling import model_sampling as levels
from comfyk_core_nodes.sampling import prediction
from comfyk_core_nodes.weights.layers import stored_layers
from diffusers import ControlNetModel
from torch import Tensor

from .conftest import TEXT, close

SAMPLING = levels.model_sampling(levels.ModelSamplingDiscrete, prediction.EPS)
MODEL = SimpleNamespace(model_sampling=SAMPLING)
Run = Callable[..., Any]


@pytest.fixture
def control(sd1_control: ControlNetModel, save: Callable[..., Path]) -> ControlNet:
    loaded = load_controlnet(save(sd1_control.state_dict()))
    assert isinstance(loaded, ControlNet)
    return loaded


@pytest.fixture
def get(draw: Callable[..., Tensor]) -> Run:
    """`get(control)`: its residuals for two latents at a sigma in the middle of the schedule."""

    def call(control: ControlBase, sigma: float | None = None, model: Any = MODEL, parts: int = 1) -> Any:
        control.pre_run(model, SAMPLING.percent_to_sigma)
        t = torch.full((2,), SAMPLING.percent_to_sigma(0.5) if sigma is None else sigma)
        cond = {"c_crossattn": draw(2, 5, TEXT)}
        with torch.no_grad():
            return control.get_control(draw(2, 4, 8, 8), t, cond, parts, {})

    return call


def tensors(control: dict[str, list[Tensor | None]]) -> list[Tensor]:
    return [value for kind in ("input", "middle", "output") for value in control[kind] if value is not None]


def test_residuals_are_those_of_diffusers(
    control: ControlNet, sd1_control: ControlNetModel, get: Run, draw: Callable[..., Tensor]
) -> None:
    hint = draw(1, 3, 64, 64).sigmoid()
    sigma = SAMPLING.percent_to_sigma(0.3)
    load_models_gpu(control.get_models())
    ours = get(control.copy().set_cond_hint(hint, 0.7), sigma)
    t = torch.full((2,), sigma)
    with torch.no_grad():
        theirs = sd1_control(
            SAMPLING.calculate_input(t, draw(2, 4, 8, 8)),
            SAMPLING.timestep(t),
            draw(2, 5, TEXT),
            hint.repeat(2, 1, 1, 1),
            conditioning_scale=0.7,
        )
    assert ours["input"] == []
    assert close(ours["middle"][0], theirs.mid_block_res_sample)
    for a, b in zip(ours["output"], theirs.down_block_res_samples, strict=True):
        assert close(a, b)


def test_hint_is_cut_and_resized_to_the_latent(
    control: ControlNet, get: Run, draw: Callable[..., Tensor]
) -> None:
    wide = draw(1, 3, 100, 300).sigmoid()
    middle = torch.nn.functional.interpolate(wide[..., 100:200], (64, 64), mode="nearest-exact")
    assert torch.equal(fit_picture(wide, 64, 64), middle)
    a = get(control.copy().set_cond_hint(wide))
    b = get(control.copy().set_cond_hint(middle))
    assert all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def test_strength_0_changes_nothing(
    control: ControlNet, get: Run, draw: Callable[..., Tensor], model: Any
) -> None:
    unet = model.model.diffusion_model
    x, t, text = draw(2, 4, 8, 8), torch.tensor([500.0, 500.0]), draw(2, 5, TEXT)
    residuals = get(control.copy().set_cond_hint(draw(1, 3, 64, 64), 0.0))
    with torch.no_grad():
        plain = unet(x, t, text)
        assert torch.equal(unet(x, t, text, control=residuals), plain)
        strong = get(control.copy().set_cond_hint(draw(1, 3, 64, 64), 1.0))
        assert not close(unet(x, t, text, control=strong), plain, 1e-2)


def test_start_and_end(control: ControlNet, get: Run, draw: Callable[..., Tensor]) -> None:
    some = control.copy().set_cond_hint(draw(1, 3, 64, 64), 1.0, (0.25, 0.75))
    acts = [get(some, SAMPLING.percent_to_sigma(percent)) is not None for percent in (0.2, 0.3, 0.7, 0.8)]
    assert acts == [False, True, True, False]
    always = control.copy().set_cond_hint(draw(1, 3, 64, 64))
    assert get(always, float(SAMPLING.sigma_max)) is not None
    assert get(always, float(SAMPLING.sigma_min)) is not None


def test_chained_controls_add_up(control: ControlNet, get: Run, draw: Callable[..., Tensor]) -> None:
    hints = [draw(1, 3, 64, 64, seed=seed) for seed in range(3)]
    alone = [get(control.copy().set_cond_hint(hint, 0.5 + n)) for n, hint in enumerate(hints)]
    chain = None
    for n, hint in enumerate(hints):
        chain = control.copy().set_cond_hint(hint, 0.5 + n).set_previous_controlnet(chain)
    assert chain is not None
    for *parts, total in zip(*map(tensors, alone), tensors(get(chain)), strict=True):
        assert close(total, sum(parts[1:], parts[0]))
    assert len(chain.get_models()) == 3
    # Outside of its range a control hands on what the ones before it gave.
    last = control.copy().set_cond_hint(hints[2], 1.0, (0.9, 1.0)).set_previous_controlnet(chain)
    for a, b in zip(tensors(get(last)), tensors(get(chain)), strict=True):
        assert torch.equal(a, b)


def test_strength_that_rises_with_depth(control: ControlNet, get: Run, draw: Callable[..., Tensor]) -> None:
    hint = draw(1, 3, 64, 64)
    full = get(control.copy().set_cond_hint(hint))
    rising = control.copy().set_cond_hint(hint, 0.5)
    rising.strength_type = StrengthType.LINEAR_UP
    ours = get(rising)
    count = len(full["output"])
    for index, (a, b) in enumerate(zip(ours["output"], full["output"], strict=True)):
        assert close(a, b * 0.5 ** (count - index))
    assert close(ours["middle"][0], full["middle"][0] * 0.5)


@pytest.mark.parametrize("name", ["x_shuffle.safetensors", "x_shuffle_fp16.safetensors"])
def test_files_of_shuffle_are_averaged(
    name: str, sd1_control: ControlNetModel, save: Callable[..., Path], get: Run, draw: Callable[..., Tensor]
) -> None:
    hint = draw(1, 3, 64, 64)
    pooled = get(load_controlnet(save(sd1_control.state_dict(), name)).set_cond_hint(hint))
    plain = get(load_controlnet(save(sd1_control.state_dict())).set_cond_hint(hint))
    for a, b in zip(tensors(pooled), tensors(plain), strict=True):
        assert close(a, b.mean(dim=(2, 3), keepdim=True).expand_as(b))


def test_several_hints_go_to_the_latents_in_order(
    control: ControlNet, get: Run, draw: Callable[..., Tensor]
) -> None:
    hints = draw(2, 3, 64, 64)
    both = get(control.copy().set_cond_hint(hints))
    for index in range(2):
        one = get(control.copy().set_cond_hint(hints[index : index + 1]))
        for a, b in zip(tensors(both), tensors(one), strict=True):
            assert close(a[index], b[index])
    # Two parts of one latent each: both get the first hint.
    for a, b in zip(
        tensors(get(control.copy().set_cond_hint(hints), parts=2)),
        tensors(get(control.copy().set_cond_hint(hints[:1]))),
        strict=True,
    ):
        assert close(a, b)


def test_hints_are_begun_again_where_there_are_too_few() -> None:
    hints = torch.arange(3.0).reshape(3, 1, 1, 1)
    assert spread_hint(hints, 4, 1).flatten().tolist() == [0, 1, 2, 0]
    assert spread_hint(hints, 4, 2).flatten().tolist() == [0, 1, 0, 1]
    assert spread_hint(hints[:1], 4, 2).shape[0] == 1


def test_more_channels_after_the_hint(control: ControlNet, draw: Callable[..., Tensor]) -> None:
    """As the inpainting node gives them: a mask of any size, or none, which keeps all."""
    control.concat_mask = True
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    hint = control.copy().set_cond_hint(draw(2, 3, 64, 64), extra_concat=[mask])._make_hint(64, 64)
    assert hint.shape == (2, 4, 64, 64)
    assert hint[:, 3, :, :32].eq(1).all() and hint[:, 3, :, 32:].eq(0).all()
    assert control.copy().set_cond_hint(draw(2, 3, 64, 64))._make_hint(64, 64)[:, 3].eq(1).all()


def test_copies_share_weights_and_nothing_else(control: ControlNet, draw: Callable[..., Tensor]) -> None:
    first = control.copy().set_cond_hint(draw(1, 3, 64, 64), 0.5)
    first.set_extra_arg("control_type", [3])
    second = first.copy()
    second.set_extra_arg("control_type", [])
    assert first.extra_args == {"control_type": [3]} and control.extra_args == {}
    assert second.control_model is control.control_model and second.strength == 0.5
    assert second.set_previous_controlnet(first).copy().previous_controlnet is None


def test_cleanup_forgets_the_run(control: ControlNet, get: Run, draw: Callable[..., Tensor]) -> None:
    used = control.copy().set_cond_hint(draw(1, 3, 64, 64))
    get(used)
    assert used.cond_hint is not None
    used.cleanup()
    assert used.cond_hint is None and used.timestep_range is None and used.model_sampling_current is None
    assert used.cond_hint_original is not None


def test_union_types_by_name() -> None:
    assert union_type_numbers("auto") == []
    assert [union_type_numbers(name) for name in UNION_CONTROLNET_TYPES] == [[number] for number in range(8)]


def original(control: ControlNetModel) -> dict[str, Tensor]:
    state = diffusers_controlnet_to_original(control.state_dict())
    assert state is not None
    return dict(state)


class TestDifference:
    def test_is_added_to_the_models_weights(
        self,
        control: ControlNet,
        sd1_control: ControlNetModel,
        unet_state: dict[str, Tensor],
        model: Any,
        save: Callable[..., Path],
        get: Run,
        draw: Callable[..., Tensor],
    ) -> None:
        state = original(sd1_control)
        state = {
            f"control_model.{key}": value - unet_state[key] if key in unet_state else value
            for key, value in state.items()
        }
        path = save({**state, "difference": torch.zeros(1)}, "difference.safetensors")
        hint = draw(1, 3, 64, 64)
        whole = get(control.copy().set_cond_hint(hint))
        difference = get(load_controlnet(path, model).set_cond_hint(hint))
        for a, b in zip(tensors(difference), tensors(whole), strict=True):
            assert close(a, b)

    def test_without_a_model_it_says_so(
        self, sd1_control: ControlNetModel, save: Callable[..., Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        state = {f"control_model.{key}": value for key, value in original(sd1_control).items()}
        load_controlnet(save({**state, "difference": torch.zeros(1)}))
        assert "without" in caplog.text


class TestControlLora:
    @pytest.fixture
    def lora(self, sd1_control: ControlNetModel, unet_state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Low-rank changes for two layers of the UNet, and the layers that it lacks."""
        generator = torch.Generator().manual_seed(3)
        state = {key: value for key, value in original(sd1_control).items() if key not in unet_state}
        for name in ("input_blocks.1.1.transformer_blocks.0.attn2.to_k", "input_blocks.1.0.in_layers.2"):
            shape = unet_state[f"{name}.weight"].shape
            state[f"{name}.up"] = torch.randn(shape[0], 4, generator=generator) * 0.1
            state[f"{name}.down"] = torch.randn(4, *shape[1:], generator=generator) * 0.1
        state["middle_block.0.in_layers.0.weight"] = torch.ones(64)
        return state

    def test_is_the_model_with_changes(
        self,
        lora: dict[str, Tensor],
        unet_state: dict[str, Tensor],
        model: Any,
        save: Callable[..., Path],
        get: Run,
        draw: Callable[..., Tensor],
    ) -> None:
        whole = {k: v for k, v in unet_state.items() if not k.startswith(("output_blocks", "out."))}
        for key, value in lora.items():
            name = key.rpartition(".")[0]
            if key.endswith(".up"):
                change = value @ lora[f"{name}.down"].flatten(1)
                whole[f"{name}.weight"] = unet_state[f"{name}.weight"] + change.reshape(
                    unet_state[f"{name}.weight"].shape
                )
            elif not key.endswith(".down"):
                whole[key] = value
        expected = get(load_controlnet(save(whole, "whole.safetensors")).set_cond_hint(draw(1, 3, 64, 64)))
        control = load_controlnet(save({**lora, "lora_controlnet": torch.zeros(1)}))
        assert isinstance(control, ControlLora)
        control = control.copy().set_cond_hint(draw(1, 3, 64, 64))
        for _ in range(2):
            ours = get(control, model=model.model)
            for a, b in zip(tensors(ours), tensors(expected), strict=True):
                assert close(a, b)
            assert all(layer.prepared for _, layer in stored_layers(control.control_model))
            control.cleanup()
            assert control.control_model is None

    def test_follows_patches_of_the_model(
        self,
        lora: dict[str, Tensor],
        model: Any,
        save: Callable[..., Path],
        get: Run,
        draw: Callable[..., Tensor],
    ) -> None:
        control = load_controlnet(save({**lora, "lora_controlnet": torch.zeros(1)}))
        control.set_cond_hint(draw(1, 3, 64, 64))
        load_models_gpu([model])
        plain = get(control, model=model.model)
        patched = model.clone()
        key = "diffusion_model.input_blocks.0.0.weight"
        patched.add_patches({key: (torch.ones_like(model.model.state_dict()[key]),)})
        load_models_gpu([patched])
        changed = get(control, model=model.model)
        assert not close(changed["output"][0], plain["output"][0], 1e-2)
        load_models_gpu([model])
        assert torch.equal(get(control, model=model.model)["output"][0], plain["output"][0])
