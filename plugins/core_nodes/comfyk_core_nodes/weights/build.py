"""From a file's tensors to a network, and what is said of a file that is no good."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from comfyk_core_nodes.weights.assign import Network, fill
from comfyk_core_nodes.weights.files import ModelFileError

Path = str | os.PathLike[str]

_BROKEN = (
    ArithmeticError,
    AssertionError,
    IndexError,
    KeyError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)
"""What building a network from sizes that do not fit together runs into."""


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes a ModelFileError that says which file was read for what."""
    try:
        yield
    except ModelFileError:
        raise
    except _BROKEN as error:
        if isinstance(error, KeyError):
            found = f"one without {error.args[0] if error.args else 'some key'}"
        else:
            found = f"one that does not fit together ({str(error) or type(error).__name__})"
        raise ModelFileError(path, f"{expected}, complete", found) from error


def build(make: Callable[[], Network], state: Mapping[str, Tensor], strict: bool = False) -> Network:
    """The network that `make` gives, with the tensors of `state` as its weights: see `assign.fill`."""
    with torch.device("meta"):
        network = make()
    return fill(network, state, f"a {type(network).__name__}", strict)
