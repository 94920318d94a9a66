"""By which addresses clients reach a server that listens on all of a machine's."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

_ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_MOST = 8


def reachable(listening: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The addresses that clients can type. The first is this machine's own way; one that means all addresses stands
    for those that the machine has on the network.
    """
    listening = list(listening)
    found = [(_ALL.get(host, host), port) for host, port in listening[:1]]
    found += [(host, port) for host, port in listening[1:] if host not in _ALL]
    for host, port in listening:
        if host in _ALL:
            found += [(other, port) for other in _of_this_machine(6 if ":" in host else 4)[:_MOST]]
    return list(dict.fromkeys(found))


def _of_this_machine(version: int) -> list[str]:
    """The machine's own addresses that others can reach: none of loopback, and none that need a zone."""
    import psutil

    found: list[str] = []
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            try:
                address = ipaddress.ip_address(one.address)
            except ValueError:  # of the hardware, or with a zone
                continue
            if address.version == version and not (address.is_loopback or address.is_link_local):
                found.append(one.address)
    return found
