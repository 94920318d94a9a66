"""A tiny random checkpoint of the SD 1.x layout, in a file, and what it loads as."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk_core_nodes.families.checkpoint import Checkpoint, load_checkpoint
from safetensors.torch import save_file
from torch import Tensor

from ..tiny_models import StateDict, make_checkpoint

CONTEXT = 64
"""Channels of its prompts."""


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def state() -> StateDict:
    torch.manual_seed(7)
    with torch.no_grad():
        return make_checkpoint("sd1")


@pytest.fixture(scope="session")
def load(state: StateDict, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Checkpoint]:
    """`load(dtype)`: the checkpoint with its weights stored so."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def loaded(dtype: torch.dtype = torch.float32) -> Checkpoint:
        path: Path = folder / f"{dtype}.safetensors"
        if not path.exists():
            save_file({key: value.to(dtype).contiguous() for key, value in state.items()}, path)
        return load_checkpoint(path)

    return loaded


@pytest.fixture(scope="session")
def checkpoint(load: Callable[..., Checkpoint]) -> Checkpoint:
    return load()


def drawn(*shape: int, seed: int) -> Tensor:
    """The same normal numbers each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompt(seed: int, **options: Any) -> list[list[Any]]:
    """A conditioning of random numbers in place of a text's."""
    return [[drawn(1, 77, CONTEXT, seed=seed), options]]
