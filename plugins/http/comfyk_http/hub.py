"""Which WebSocket client gets what: events come in on the loop, and go to the clients whom they concern.

Each is written once, whoever receives it. What goes to a crowd is gathered for a moment first, so that the more
clients listen, the less each of them costs the job that they listen to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable
from functools import cache

from comfyk.api import ApiError
from comfyk.events import (
    Event,
    ExecutionInterrupted,
    JobEvent,
    Message,
    Preview,
    Progress,
    ProgressState,
    ProgressText,
    QueueChanged,
)
from comfyk.tasks import TaskChanged
from comfyk.wire import dumps

from comfyk_http import binary_messages as binary
from comfyk_http.clients import Client
from comfyk_http.frames import binary_frame, text_frame

FEW = 4
"""So many clients are told everything at once."""
SECONDS_PER_CLIENT = 0.0005
"""For so long the news is gathered for each client that gets it: sending it then takes about a tenth of the time."""


class Hub:
    """All clients by id; `on_event` forwards an event to those whom it concerns."""

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}
        self._gathered: dict[Hashable, Event] = {}
        """For everybody: messages in order, of which those with one key replace each other."""
        self._sending: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._clients)

    def __contains__(self, client_id: str) -> bool:
        return client_id in self._clients

    def add(self, client: Client) -> None:
        """From now on `client` gets what is for its id; an older connection with that id gets no more.

        The older one is not closed: a browser would connect it again at once, and two tabs with one id would
        throw each other out for ever.
        """
        self._clients[client.id] = client

    def check_owner(self, client_id: str, user: str | None, address: str | None = None) -> None:
        """Raises ApiError (409) when the id is in use by another user, so that nobody hears of another's jobs.

        Who does not say who they are, as browsers connecting again, have to come from where the client came from.
        """
        client = self._clients.get(client_id)
        if client is None:
            return
        if client.user is not None:
            free = client.user == user
        elif client.poster is not None and user is not None:
            free = client.poster == user
        else:
            free = client.poster is None or client.address == address
        if not free:
            raise ApiError(
                409,
                "client_id_in_use",
                "Another user is connected with this client id.",
                "Choose another: any text that nobody else has, such as a new UUID.",
                extra_info={"field": "client_id"},
            )

    def claim(self, client_id: str, user: str) -> None:
        """A user's prompt names this client: it is that user's from now on. Raises ApiError (409), as above."""
        self.check_owner(client_id, user)
        client = self._clients.get(client_id)
        if client is not None and client.user is None:
            client.poster = user

    def remove(self, client: Client) -> None:
        """Forget a client, unless another connection has taken over its id."""
        if self._clients.get(client.id) is client:
            del self._clients[client.id]

    def on_event(self, event: Event) -> None:
        """Forward an event. What is about one client's job goes to that client.

        Without a client, progress and what is not about a job at all goes to everybody, as does the news that a
        job was interrupted; the other messages of the job go to nobody.
        """
        if not self._clients:
            return
        if event.client_id is not None:
            client = self._clients.get(event.client_id)
            if client is not None and _is_told(type(event)):
                _send((client,), event, _detailed(client))
        elif _is_for_all(type(event)):
            self._tell_all(event)

    def _tell_all(self, event: Event) -> None:
        if len(self._clients) <= FEW and not self._gathered:
            for client in self._clients.values():
                _send((client,), event, _detailed(client))
            return
        newest = _newest(event)
        key = object() if newest is None else newest
        self._gathered.pop(key, None)
        self._gathered[key] = event
        if len(self._clients) <= FEW:
            self._send_gathered()
        elif self._sending is None:
            pause = len(self._clients) * SECONDS_PER_CLIENT
            self._sending = asyncio.get_running_loop().call_later(pause, self._send_gathered)

    def _send_gathered(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        gathered, self._gathered = self._gathered, {}
        for detailed in (False, True):
            clients = [client for client in self._clients.values() if _detailed(client) is detailed]
            if clients:
                for event in gathered.values():
                    _send(clients, event, detailed)

    async def flush(self, seconds: float) -> None:
        """Wait until the clients have been sent everything, at most for so long."""
        self._send_gathered()
        end = asyncio.get_running_loop().time() + seconds
        while not all(client.idle for client in self._clients.values()):
            if asyncio.get_running_loop().time() > end:
                break
            await asyncio.sleep(0.01)


def _detailed(client: Client) -> bool:
    """Whether the client wants to know which node a preview is of."""
    return client.flags.get("supports_preview_metadata") is True


@cache
def _is_told(type: type[Event]) -> bool:
    """Whether clients hear of such events at all: some are for plugins only."""
    return bool(type.type) or issubclass(type, Message)


@cache
def _is_for_all(type: type[Event]) -> bool:
    """Whether such an event goes to everybody when it is about no client's job."""
    if not issubclass(type, JobEvent):
        return _is_told(type)
    return issubclass(type, Preview | Progress | ProgressState | ProgressText | ExecutionInterrupted)


def _newest(event: Event) -> Hashable | None:
    """What the event is the news of, if only the latest news of that counts."""
    match event:
        case Progress() | ProgressText():
            return event.type, event.job_id, event.node
        case Preview():
            return None if event.image.is_result else (event.type, event.job_id, event.node.node_id)
        case ProgressState():
            return event.type, event.job_id
        case QueueChanged():
            return event.type
        case TaskChanged():
            return event.type, event.task.get("id")
    return None


def _frame(event: Event, detailed: bool) -> bytes:
    match event:
        case Preview():
            return binary_frame(binary.preview_with_metadata(event) if detailed else binary.preview(event))
        case ProgressText():
            return binary_frame(binary.progress_text(event))
        case Message(content=bytes() as content):
            return binary_frame(content)
        case Message():
            return text_frame(dumps({"type": event.message_type, "data": event.content}))
    return text_frame(dumps({"type": event.type, "data": event.data()}))


def _send(clients: Iterable[Client], event: Event, detailed: bool) -> None:
    frame, newest, patient = _frame(event, detailed), _newest(event), isinstance(event, QueueChanged)
    for client in clients:
        client.send(frame, newest, patient=patient)
