"""Files that are no controls, or damaged or hostile ones: the error names the file and what was found."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk_core_nodes.control.layouts import diffusers_controlnet_to_original
from comfyk_core_nodes.control.load import load_controlnet
from comfyk_core_nodes.weights.files import ModelFileError
from diffusers import ControlNetModel
from torch import Tensor

Save = Callable[..., Path]


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ({"a": torch.zeros(2)}, "1 tensors of something else"),
        ({"x.lora_up.weight": torch.zeros(2, 2)}, "a LoRA"),
        ({"controlnet_blocks.0.weight": torch.zeros(2, 2)}, "a transformer model"),
        ({"zero_convs.0.0.weight": torch.zeros(2, 2, 1, 1)}, "no input_blocks"),
        ({"lora_controlnet": torch.zeros(1)}, "without input_hint_block.0.weight"),
        ({"body.0.block1.weight": torch.zeros(2, 2, 3, 3)}, "without conv_in.weight"),
        ({"body.0.out_conv.weight": torch.zeros(2, 2, 1, 1)}, "without body.0.in_conv.weight"),
    ],
)
def test_something_else(state: dict[str, Tensor], found: str, save: Save) -> None:
    with pytest.raises(ModelFileError, match=found) as caught:
        load_controlnet(save(state, "odd.safetensors"))
    assert str(caught.value).startswith("odd.safetensors: expected a ControlNet")


def drop(state: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_every_weight_is_missed(layout: str, sd1_control: ControlNetModel, save: Save) -> None:
    state: Any = sd1_control.state_dict()
    if layout == "original":
        state = diffusers_controlnet_to_original(state)
    for key in list(state)[::7]:
        with pytest.raises(ModelFileError, match="broken"):
            load_controlnet(save(drop(state, key), "broken.safetensors"))


def test_every_shape_is_looked_at(sd1_control: ControlNetModel, save: Save) -> None:
    state = diffusers_controlnet_to_original(sd1_control.state_dict())
    assert state is not None
    for key in list(state)[::11]:
        for odd in (torch.zeros(()), torch.zeros(3), torch.zeros(0, 2, 2, 2)):
            with pytest.raises(ModelFileError, match="broken"):
                load_controlnet(save({**state, key: odd}, "broken.safetensors"))


def test_cut_off(sd1_control: ControlNetModel, save: Save) -> None:
    path = save(sd1_control.state_dict(), "cut.safetensors")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelFileError, match="the file is cut off"):
        load_controlnet(path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "trap.pth"
    torch.save({"control_model.zero_convs.0.0.weight": Trap()}, path)
    with pytest.raises(ModelFileError, match="only running code could build"):
        load_controlnet(path)
    assert not (tmp_path / "sprung").exists()
