"""LoRAs leave a model's weights as they were: at strength 0, and once they are taken off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfyk_core_nodes.families.checkpoint import Checkpoint
from comfyk_core_nodes.families.lora import apply_lora
from comfyk_core_nodes.memory.manager import load_models_gpu, unload_all_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from .conftest import CONTEXT, drawn

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
UNET_KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TEXT_KEY = "lora_te_text_model_encoder_layers_0_mlp_fc1"


def lora_file(seed: int) -> dict[str, Tensor]:
    """A LoRA in kohya's layout for one weight of the UNet and one of the text encoder."""
    sizes = {UNET_KEY: (32, 32), TEXT_KEY: (128, 64)}
    file: dict[str, Tensor] = {}
    for number, (key, (rows, columns)) in enumerate(sizes.items()):
        file[f"{key}.lora_up.weight"] = drawn(rows, 2, seed=seed + number)
        file[f"{key}.lora_down.weight"] = drawn(2, columns, seed=seed + number + 1)
        file[f"{key}.alpha"] = torch.tensor(2.0)
    return file


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {
        key: value.detach().clone().reshape(-1).view(torch.uint8) for key, value in model.state_dict().items()
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def results(model: Any, clip: Any) -> tuple[Tensor, Tensor]:
    """What the UNet and the text encoder give, both loaded with their patches."""
    load_models_gpu([model])
    x = drawn(1, 4, 8, 8, seed=3)
    unet = model.model.apply_model(x, torch.tensor([2.0]), c_crossattn=drawn(1, 77, CONTEXT, seed=4))
    return unet.clone(), clip.encode("a cat").clone()


@pytest.mark.parametrize("dtype", DTYPES)
def test_strength_0_changes_nothing(dtype: torch.dtype, load: Callable[..., Checkpoint]) -> None:
    found = load(dtype)
    assert found.model is not None
    plain = results(found.model, found.clip)
    before = bits(found.model.model)
    zero = results(*apply_lora(found.model, found.clip, lora_file(1), 0.0, 0.0))
    assert all(torch.equal(a, b) for a, b in zip(plain, zero, strict=True))
    assert same(bits(found.model.model), before)
    changed = results(*apply_lora(found.model, found.clip, lora_file(1), 1.0, 1.0))
    assert not any(torch.equal(a, b) for a, b in zip(plain, changed, strict=True))
    # One part at 0 leaves that part alone.
    unet_only = results(*apply_lora(found.model, found.clip, lora_file(1), 1.0, 0.0))
    assert torch.equal(unet_only[0], changed[0]) and torch.equal(unet_only[1], plain[1])


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    strengths=st.lists(st.floats(-2, 2, allow_subnormal=False), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_put_on_comes_off_bit_for_bit(
    dtype: torch.dtype, load: Callable[..., Checkpoint], strengths: list[float], seed: int
) -> None:
    found = load(dtype)
    assert found.model is not None and found.clip is not None
    models = found.model.model, found.clip.cond_stage_model
    plain = results(found.model, found.clip)
    before = [bits(model) for model in models]
    patched: tuple[Any, Any] = found.model, found.clip
    for number, strength in enumerate(strengths):
        patched = apply_lora(*patched, lora_file(seed + number), strength, strength)
    first = results(*patched)
    again = results(found.model, found.clip)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    second = results(*patched)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    unload_all_models()
    assert all(same(bits(model), kept) for model, kept in zip(models, before, strict=True))
