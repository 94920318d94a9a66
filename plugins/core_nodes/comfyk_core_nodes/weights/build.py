"""From a file's tensors to a network that memory management knows, for the networks beside the diffusion model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from comfyk_core_nodes.weights.files import ModelFileError, assign_weights

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher

log = logging.getLogger(__name__)

Path = str | os.PathLike[str]

Network = TypeVar("Network", bound=nn.Module)

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
    """The network that `make` gives, with the tensors of `state` as its weights, none of them copied.

    Raises ValueError where one is missing or has another shape; with `strict` also where a part of the network has
    no place for one: the gap that a missing one leaves may be what a smaller network looks like.
    """
    with torch.device("meta"):
        network = make()
    missing, left_over = assign_weights(network, state)
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, as {missing[0]}")
    parts = {name for name, _ in network.named_children()}
    odd = [key for key in left_over if key.partition(".")[0] in parts] if strict else []
    if odd:
        raise ValueError(f"there is no place for {len(odd)} weights, as {odd[0]}")
    if left_over:
        log.debug("keys of no use in a %s: %s", type(network).__name__, left_over)
    return network.eval()


def managed(
    network: nn.Module,
    load_device: torch.device,
    offload_device: torch.device,
    weight_dtype: torch.dtype | None,
    compute_dtype: torch.dtype,
) -> ModelPatcher:
    """The patcher of a network whose weights are kept in one dtype on the device, and computed with in another."""
    from comfyk_core_nodes.memory.patcher import ModelPatcher

    network.__dict__["manual_cast_dtype"] = compute_dtype
    return ModelPatcher(
        network, load_device=load_device, offload_device=offload_device, weight_dtype=weight_dtype
    )
