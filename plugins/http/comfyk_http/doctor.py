"""What `comfyk doctor` says of the server: whether it could listen, and who would get in."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

from comfyk.doctor import Finding

from comfyk_http.settings import HttpSettings, token_needed
from comfyk_http.tokens import TokenError, Tokens


def findings(settings: HttpSettings, user_folder: Path) -> Iterator[Finding]:
    """All that is wrong. May block."""
    yield from _tls(settings)
    yield from _who_gets_in(settings, user_folder)
    for address in settings.addresses:
        yield from _port(settings, address)
    if not settings.addresses:
        yield Finding("error", f"There is no address to listen on: {settings.listen!r}.", "Set http.listen.")


def _tls(settings: HttpSettings) -> Iterator[Finding]:
    try:
        settings.tls()
    except (OSError, ssl.SSLError) as error:
        yield Finding(
            "error",
            f"TLS cannot be used: {error.strerror or error}.",
            "Mend http.tls_certfile and http.tls_keyfile.",
        )


def _who_gets_in(settings: HttpSettings, user_folder: Path) -> Iterator[Finding]:
    if token_needed(settings):
        try:
            if not Tokens(user_folder).all():
                yield Finding(
                    "error", "Clients need a token, and there is none: nobody gets in.", "comfyk token create"
                )
        except TokenError as error:
            yield Finding(
                "error", f"Nobody gets in: {error}", "Mend the file, or remove it and make tokens anew."
            )
    elif not settings.loopback_only:
        yield Finding(
            "warning",
            f"Everybody who can reach this machine at {settings.listen} may use the server: no token is asked for.",
            "Set http.require_token to auto, and make a token with `comfyk token create`.",
        )
    if settings.cors_origin == "*":
        yield Finding(
            "warning",
            "Pages of every web site may use the server from the browser of whoever opens them.",
            "Set http.cors_origin to the one site that has to.",
        )
    elif "*" in settings.allowed_hosts:
        yield Finding(
            "warning",
            "The server answers under every name: pages of any web site can reach it by DNS rebinding.",
            "Name the hosts in http.allowed_hosts.",
        )


def _port(settings: HttpSettings, address: str) -> Iterator[Finding]:
    """Take the port for a moment, as the server would."""
    try:
        places = socket.getaddrinfo(address, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        yield Finding(
            "error", f"{address!r} is no address of this machine: {error.strerror}.", "Set http.listen."
        )
        return
    family, kind, protocol, _, place = places[0]
    try:
        with socket.socket(family, kind, protocol) as taken:
            if os.name == "posix":
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(place)
            taken.listen(1)
    except OSError as error:
        where = f"port {settings.port} on {address}"
        if error.errno == errno.EADDRINUSE:
            yield Finding(
                "info",
                f"{where} is in use: by this server if it runs, else by another program.",
                "Stop that, or set http.port.",
            )
        else:
            yield Finding(
                "error", f"cannot listen on {where}: {error.strerror}.", "Set http.listen or http.port."
            )
