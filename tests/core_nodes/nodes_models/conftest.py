"""Tiny random checkpoints, written once, and a way to put files where the nodes of an app look for them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from comfyk.app import App
from safetensors.torch import save_file
from torch import Tensor

StateDict = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(7)
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The makers of tiny models that the tests of `models` have: `make_checkpoint`, `randomised` ..."""
    path = Path(__file__).parents[1] / "models" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_models_of_nodes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def states(tiny: ModuleType) -> Callable[[str], StateDict]:
    """`states("sd1")`: the same checkpoint of a family each time."""
    made: dict[str, StateDict] = {}

    def state(family: str) -> StateDict:
        if family not in made:
            torch.manual_seed(3)
            with torch.no_grad():
                made[family] = tiny.make_checkpoint(family)
        return made[family]

    return state


@pytest.fixture
def put(app: App) -> Callable[..., str]:
    """`put("loras", "a.safetensors", state)`: the name, for a node."""

    def write(kind: str, name: str, state: StateDict) -> str:
        path = app.folders.paths(kind)[0] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {key: value.detach().clone().contiguous() for key, value in state.items()}
        if path.suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save(state, path)
        return name

    return write
