"""GLIGEN: its layers against a plain calculation, and its boxes in a UNet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comfyk_core_nodes.control.gligen import Gligen, load_gligen
from comfyk_core_nodes.weights.files import ModelFileError
from diffusers.models.embeddings import GLIGENTextBoundingboxProjection
from torch import Tensor

from .conftest import close, randomise

TEXT = 24
PLACES = {"input_blocks.1.1": 32, "middle_block.1": 64, "output_blocks.2.1": 32, "output_blocks.3.1": 32}
"""The tiny UNet's transformers and their widths."""
CPU = torch.device("cpu")


def fuser(width: int, draw: Callable[..., Tensor], seed: int) -> dict[str, Tensor]:
    def weight(*shape: int) -> Tensor:
        nonlocal seed
        seed += 1
        return draw(*shape, seed=seed) * shape[-1] ** -0.5

    state = {"linear.weight": weight(width, TEXT), "linear.bias": weight(width)}
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        state[f"attn.{name}.weight"] = weight(width, width)
    state["attn.to_out.0.bias"] = weight(width)
    state["ff.net.0.proj.weight"], state["ff.net.0.proj.bias"] = weight(8 * width, width), weight(8 * width)
    state["ff.net.2.weight"], state["ff.net.2.bias"] = weight(width, 4 * width), weight(width)
    for name in ("norm1", "norm2"):
        state[f"{name}.weight"], state[f"{name}.bias"] = weight(width) + 1, weight(width)
    state["alpha_attn"], state["alpha_dense"] = torch.tensor(0.7), torch.tensor(-0.4)
    return state


def their_position_net() -> Any:
    return randomise(GLIGENTextBoundingboxProjection(positive_len=TEXT, out_dim=TEXT), 5)


def boxes_state(draw: Callable[..., Tensor]) -> dict[str, Tensor]:
    """A GLIGEN file for the tiny UNet."""
    state = {f"position_net.{key}": value for key, value in their_position_net().state_dict().items()}
    for number, (place, width) in enumerate(PLACES.items()):
        for key, value in fuser(width, draw, 100 * number).items():
            state[f"{place}.transformer_blocks.0.fuser.{key}"] = value
    return state


@pytest.fixture(scope="module")
def position_net() -> Any:
    return their_position_net()


@pytest.fixture
def state(draw: Callable[..., Tensor]) -> dict[str, Tensor]:
    return boxes_state(draw)


@pytest.fixture
def gligen(state: dict[str, Tensor], save: Callable[..., Path]) -> Gligen:
    return load_gligen(save(state, "gligen.safetensors")).model


def test_layers_are_in_the_order_of_the_unet(gligen: Gligen) -> None:
    assert [layer.linear.weight.shape[0] for layer in gligen.module_list] == [32, 64, 32, 32]


def test_box_tokens_are_those_of_diffusers(
    gligen: Gligen, position_net: Any, draw: Callable[..., Tensor]
) -> None:
    boxes, texts = draw(2, 30, 4).sigmoid(), draw(2, 30, TEXT)
    masks = (torch.arange(30) < 3).float().expand(2, 30)
    with torch.no_grad():
        assert close(gligen.position_net(boxes, masks, texts), position_net(boxes, masks, texts))


def test_a_layer_is_gated_attention_among_both(
    gligen: Gligen, position_net: Any, state: dict[str, Tensor], draw: Callable[..., Tensor]
) -> None:
    texts = [draw(1, TEXT, seed=seed) for seed in (1, 2)]
    params = [(texts[0], 4, 2, 1, 3), (texts[1], 8, 8, 0, 0)]
    x = draw(2, 64, 32)
    with torch.no_grad():
        patch = gligen.set_position((2, 4, 8, 8), params, CPU)
        ours = patch(x, {"transformer_index": 0})
        boxes = torch.zeros(1, 30, 4)
        boxes[0, 0] = torch.tensor([3 / 8, 1 / 8, 5 / 8, 5 / 8])
        boxes[0, 1] = torch.tensor([0.0, 0.0, 1.0, 1.0])
        padded = torch.cat([*texts, torch.zeros(28, TEXT)]).unsqueeze(0)
        objects = position_net(boxes, (torch.arange(30) < 2).float().unsqueeze(0), padded).repeat(2, 1, 1)
    w = {k.partition(".fuser.")[2]: v for k, v in state.items() if k.startswith("input_blocks.1.1")}
    joined = torch.cat([x, objects @ w["linear.weight"].T + w["linear.bias"]], dim=1)
    n = F.layer_norm(joined, (32,), w["norm1.weight"], w["norm1.bias"])
    # A head of 64 channels, so one at this width: the text is not as wide as that of SD 1.x.
    q, k, v = (n @ w[f"attn.{name}.weight"].T for name in ("to_q", "to_k", "to_v"))
    mixed = (q @ k.transpose(1, 2) * 32**-0.5).softmax(-1) @ v
    out = (mixed @ w["attn.to_out.0.weight"].T + w["attn.to_out.0.bias"])[:, :64]
    x = x + torch.tanh(torch.tensor(0.7)) * out
    n = F.layer_norm(x, (32,), w["norm2.weight"], w["norm2.bias"])
    value, gate = (n @ w["ff.net.0.proj.weight"].T + w["ff.net.0.proj.bias"]).chunk(2, -1)
    dense = (value * F.gelu(gate)) @ w["ff.net.2.weight"].T + w["ff.net.2.bias"]
    assert close(ours, x + torch.tanh(torch.tensor(-0.4)) * dense)


def test_in_a_unet(gligen: Gligen, model: Any, draw: Callable[..., Tensor]) -> None:
    unet = model.model.diffusion_model
    x, t, text = draw(2, 4, 8, 8), torch.tensor([500.0, 20.0]), draw(2, 5, TEXT)

    def run(patch: Any = None) -> Tensor:
        patches = {} if patch is None else {"patches": {"middle_patch": [patch]}}
        with torch.no_grad():
            return unet(x, t, text, transformer_options=patches)

    plain = run()
    with torch.no_grad():
        box = gligen.set_position(x.shape, [(draw(1, TEXT), 4, 4, 0, 0)], CPU)
        empty = gligen.set_empty(x.shape, CPU)
    assert not close(run(box), plain, 1e-2) and not close(run(box), run(empty), 1e-3)
    for layer in gligen.module_list:
        layer.alpha_attn.zero_()
        layer.alpha_dense.zero_()
    assert torch.equal(run(box), plain)


def test_errors(gligen: Gligen, state: dict[str, Tensor], save: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="at most 30 boxes, not 31"):
        gligen.set_position((1, 4, 8, 8), [(torch.zeros(1, TEXT), 1, 1, 0, 0)] * 31, CPU)
    with pytest.raises(ValueError, match="24 channels, not of 32"):
        gligen.set_position((1, 4, 8, 8), [(torch.zeros(1, 32), 1, 1, 0, 0)], CPU)
    with pytest.raises(ModelFileError, match=r"odd.safetensors: expected a GLIGEN"):
        load_gligen(save({"a": torch.zeros(1)}, "odd.safetensors"))
    for key in list(state)[::9]:
        less = {name: value for name, value in state.items() if name != key}
        with pytest.raises(ModelFileError, match=r"less.safetensors: expected a GLIGEN"):
            load_gligen(save(less, "less.safetensors"))
