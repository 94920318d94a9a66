"""Making the tensors of a file the weights of a network, without a copy."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from comfyk_core_nodes.weights.layers import StoredWeights

log = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)


def fill(network: Network, state: Mapping[str, Tensor], what: str, strict: bool = False) -> Network:
    """`network`, built on the meta device, with the tensors of `state` as its weights, ready to be evaluated.

    `what` is what messages call the network, such as `the UNet`. Raises ValueError where a weight is missing or has
    another shape; with `strict` also where a part of the network has no place for one: the gap that a missing one
    leaves may be what a smaller network looks like.
    """
    missing, left_over = assign_weights(network, state)
    if missing:
        raise ValueError(f"{len(missing)} weights of {what} are missing, as {missing[0]}")
    parts = {name for name, _ in network.named_children()}
    odd = [key for key in left_over if key.partition(".")[0] in parts] if strict else []
    if odd:
        raise ValueError(f"there is no place for {len(odd)} weights in {what}, as {odd[0]}")
    if left_over:
        log.debug("keys of no use in %s: %s", what, left_over)
    return network.eval()


def assign_weights(module: torch.nn.Module, state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Make the tensors of `state` the parameters of `module` (built on the meta device), without a copy.

    Returns the keys that `module` lacks values for (missing) and those it has no place for (left over).
    Raises ValueError with the key and both shapes where a shape does not fit.
    """
    left_over: list[str] = []
    wanted = module.state_dict(keep_vars=True)
    modules = dict(module.named_modules())
    for key, value in state.items():
        owner_name, _, name = key.rpartition(".")
        owner = modules.get(owner_name)
        if name in ("scale_weight", "weight_scale") and isinstance(owner, StoredWeights):
            owner.scale_weight = value
            continue
        target = wanted.pop(key, None)
        if target is None or owner is None:
            left_over.append(key)
            continue
        if target.shape != value.shape:
            raise ValueError(f"{key} has the shape {list(value.shape)}, not {list(target.shape)}")
        if isinstance(target, torch.nn.Parameter):
            owner.register_parameter(name, torch.nn.Parameter(value, requires_grad=False))
        else:
            owner.register_buffer(name, value)
    return list(wanted), left_over
