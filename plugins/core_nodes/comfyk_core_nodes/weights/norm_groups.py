"""In how many groups a network normalizes its channels: 32, unless the file says otherwise.

No weight tells it. Networks too narrow for 32 groups, which would have a channel each, say so in the metadata of their
file, by diffusers' name: `norm_num_groups`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from comfyk_core_nodes.weights.layers import GroupNorm

KEY = "norm_num_groups"
USUAL = 32


def norm_groups(metadata: Mapping[str, str] | None) -> int:
    """The number that the metadata of a file has. Raises ValueError for what is none."""
    said = (metadata or {}).get(KEY, str(USUAL))
    if not said.isascii() or not said.isdigit() or not 1 <= int(said[:6]) <= 1024:
        raise ValueError(f"its metadata has {said!r:.40} as {KEY}, which is no number of groups")
    return int(said)


def normalize_in(network: nn.Module, groups: int) -> None:
    """Let all of a network's norms have so many groups. Raises ValueError where a layer cannot be parted so."""
    for name, layer in network.named_modules():
        if isinstance(layer, GroupNorm):
            if layer.num_channels % groups:
                raise ValueError(f"the {layer.num_channels} channels of {name} cannot be {groups} groups")
            layer.num_groups = groups
