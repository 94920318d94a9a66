"""Which outputs may be linked to which inputs."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

ANY = "*"
COMBO = "COMBO"
MATCH = "COMFY_MATCHTYPE_V3"


@lru_cache(maxsize=4096)
def _members(joined: str) -> frozenset[str]:
    return frozenset(one.strip() for one in joined.split(","))


def is_compatible(received: str | list[Any], wanted: str | list[Any], strict: bool = False) -> bool:
    """Whether an output of the type `received` may go into an input of the type `wanted`.

    A type is a name, several names joined by commas, or the list of a V1 combo's options. `*` goes with
    everything; a match type too, since the client resolves it. Otherwise the two need a name in common, or,
    if `strict`, `wanted` needs all the names of `received`.
    """
    # not `==`: packs have str subclasses that go with everything because their __ne__ says False
    if not received != wanted:  # noqa: SIM202
        return True
    if isinstance(received, list) or isinstance(wanted, list):
        return _combo_compatible(received, wanted)
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    have, need = _members(str.__str__(received)), _members(str.__str__(wanted))
    if ANY in have or ANY in need or MATCH in have or MATCH in need:
        return True
    return have <= need if strict else not have.isdisjoint(need)


def _combo_compatible(received: Any, wanted: Any) -> bool:
    """A list of options goes with a combo of any options: the value is only known when the graph runs."""
    if isinstance(received, list) and isinstance(wanted, list):
        return False
    other = wanted if isinstance(received, list) else received
    return isinstance(other, str) and not _members(str.__str__(other)).isdisjoint((ANY, MATCH, COMBO))
