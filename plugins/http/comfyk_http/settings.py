"""The `[http]` section of the settings."""

from __future__ import annotations

import errno
import ipaddress
import re
from typing import TYPE_CHECKING, Annotated, Literal

from comfyk.settings import AbsolutePath, Option, Section
from pydantic import Field, field_validator

if TYPE_CHECKING:
    import ssl


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own and nobody else's."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class HttpSettings(Section):
    """Where the server listens, whom it answers, and how much it takes."""

    listen: Annotated[str, Option("--listen", bare="0.0.0.0,::", metavar="ADDRESSES")] = "127.0.0.1"
    """The addresses to listen on, separated by commas; `--listen` alone means all."""
    port: Annotated[int, Option("--port")] = Field(default=8188, ge=0, le=65535)
    """The port to listen on; 0 takes any free one."""
    auto_launch: Annotated[
        bool,
        Option("--auto-launch"),
        Option("--disable-auto-launch", const=False, help="Do not open the web UI in a browser."),
    ] = False
    """Open the web UI in a browser once the server listens."""
    tls_keyfile: Annotated[AbsolutePath | None, Option("--tls-keyfile", metavar="FILE")] = None
    """The key of the TLS certificate."""
    tls_certfile: Annotated[AbsolutePath | None, Option("--tls-certfile", metavar="FILE")] = None
    """The TLS certificate; with it and its key the server speaks https."""
    cors_origin: Annotated[str | None, Option("--enable-cors-header", bare="*", metavar="ORIGIN")] = None
    """The web site whose pages may call this server, such as `https://example.org`; `*` is any."""
    allowed_hosts: list[str] = Field(default=[])
    """Further names that this server is reached by, such as `comfy.example.org`, with `:port` where that is not the
    usual one; `*` is any."""
    max_upload_size_mb: Annotated[float, Option("--max-upload-size", metavar="MB")] = Field(default=100, gt=0)
    """The largest request body, in megabytes."""
    max_arriving_mb: float | None = Field(default=None, gt=0)
    """How much of uploads that have yet to come whole may lie on the disk, in megabytes; by default ten times
    `max_upload_size_mb`."""
    max_json_values: int = Field(default=1_000_000, ge=1000)
    """How many values (numbers, strings, lists, objects) a JSON body may hold, in all its levels together."""
    body_memory_mb: float | None = Field(default=None, gt=0)
    """How much memory request bodies may take together while they are read and used, in megabytes; by default an eighth
    of what there is, at most 2,048. Others wait, and get 503 when that takes long."""
    picture_memory_mb: float | None = Field(default=None, gt=0)
    """How much memory previews and other pictures may take together, in megabytes; by default an eighth of what there
    is, at most 2,048. A picture that would take more is shown smaller, or as it is."""
    multi_user: Annotated[bool, Option("--multi-user")] = False
    """Keep the queue and the history of each `Comfy-User` apart."""
    queue_shape: Literal["comfyui", "haiven"] = "comfyui"
    """How `GET /queue` shows jobs: whole, as ComfyUI does, or by their ids, as Haiven's clients expect."""
    require_token: Annotated[
        Literal["auto", "always", "never"], Option("--require-token", metavar="WHEN")
    ] = "auto"  # noqa: S105
    """Whether clients need a token (`comfyk token create`): `auto` is when the server listens beyond loopback."""
    compress: Annotated[bool, Option("--enable-compress-response-body")] = False
    """Compress JSON and text for clients that take it."""
    client_buffer_mb: float = Field(default=8, gt=0)
    """How much may wait for a slow WebSocket client before it is dropped, in megabytes."""
    event_loop: Literal["auto", "asyncio", "uvloop"] = "auto"
    """What the server runs on: uvloop where there is one, or Python's own asyncio."""
    client_timeout: float = Field(default=30, gt=0)
    """How many seconds a WebSocket client may take in nothing before it is dropped."""
    websocket_timeout: float = Field(default=120, gt=0)
    """How many seconds a WebSocket client may be silent, and leave pings unanswered, before it is dropped."""
    history_mb: float = Field(default=16, gt=0)
    """How much of the history is sent at once to who asks for all of it, in megabytes: the newest entries."""
    max_message_kb: float = Field(default=1024, gt=0)
    """The longest WebSocket message that a client may send, in kilobytes."""
    max_connections: int | None = Field(default=None, ge=1)
    """How many connections may be open; by default 10,000, or what the limit of open files leaves."""
    max_connections_per_address: int | None = Field(default=None, ge=1)
    """How many of them one address may have; by default three quarters. A proxy is one address."""
    header_timeout: float = Field(default=20, gt=0)
    """How many seconds the header of a request may take to come."""
    keepalive_timeout: float = Field(default=75, gt=0)
    """How many seconds a connection may wait for a request, the first or the next."""
    body_timeout: float = Field(default=30, gt=0)
    """How many seconds the body of a request may pause, and an answer wait to be taken in. However large it is, it may
    take as long as it needs at `min_rate_kb`."""
    min_rate_kb: float = Field(default=1, gt=0)
    """How much of a body has to come, or of an answer be taken in, in kilobytes per second."""

    max_wait: float = Field(default=600, ge=0)
    """How many seconds a request may wait for a job at most (`GET /jobs/{id}?wait=`, `POST /prompt?wait=`); who asks
    for more is answered after so many."""

    @field_validator("listen")
    @classmethod
    def _listen(cls, listen: str) -> str:
        for address in listen.split(","):
            if re.search(r"""[][{}"'\\/]""", address):
                raise ValueError(
                    f"{address.strip()!r:.80} is no address; write them as in '127.0.0.1, ::1' or 'my-host'"
                )
        return listen

    @property
    def addresses(self) -> list[str]:
        return [address.strip() for address in self.listen.split(",") if address.strip()]

    @property
    def loopback_only(self) -> bool:
        """Whether only programs on this machine can connect."""
        return all(is_loopback(address) for address in self.addresses)

    def tls(self) -> ssl.SSLContext | None:
        """What the server speaks https with. Raises OSError for files that are missing or cannot be used."""
        import ssl

        key, certificate = self.tls_keyfile, self.tls_certfile
        if key is None and certificate is None:
            return None
        if key is None or certificate is None:
            raise OSError(errno.EINVAL, "TLS needs both --tls-keyfile and --tls-certfile")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise OSError(errno.EINVAL, f"cannot use {certificate} with {key} for TLS: {error}") from error
        return context

    @property
    def max_upload_size(self) -> int:
        """In bytes."""
        return round(self.max_upload_size_mb * 1024 * 1024)

    @property
    def max_arriving(self) -> int:
        """In bytes."""
        most = self.max_arriving_mb
        return 10 * self.max_upload_size if most is None else round(most * 1024 * 1024)


def token_needed(settings: HttpSettings) -> bool:
    """Whether clients need a token."""
    when = settings.require_token
    return when == "always" or (when == "auto" and not settings.loopback_only)
