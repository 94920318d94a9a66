"""What waits for a WebSocket client: nothing is late for the quick, and the slow are dropped."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from comfyk.events import Message, Progress
from comfyk_http.clients import BEHIND, Client
from comfyk_http.hub import Hub


class Transport:
    """A transport whose client takes in nothing while `stuck`."""

    def __init__(self, stuck: bool = True) -> None:
        self.stuck = stuck
        self.sent: list[bytes] = []
        self.aborted = False
        self.gone = asyncio.Event()
        self._looks: asyncio.Queue[None] = asyncio.Queue()

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        self._looks.put_nowait(None)
        return 1_000_000 if self.stuck and self.sent else 0

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def abort(self) -> None:
        self.aborted = True
        self.gone.set()

    async def looked_at(self, times: int) -> None:
        """Return when the client has looked so many times more whether there is room."""
        while not self._looks.empty():
            self._looks.get_nowait()
        for _ in range(times):
            await asyncio.wait_for(self._looks.get(), 10)


def _client(transport: Transport, **limits: Any) -> Client:
    limits = {"most_bytes": 3_000_000, "timeout": 60, **limits}
    return Client("stuck", transport, **limits)  # type: ignore[arg-type]


async def _sent(client: Client) -> None:
    while not client.idle:
        await asyncio.sleep(0.01)


async def test_of_progress_only_the_newest_is_kept_for_a_slow_client() -> None:
    transport = Transport()
    client = _client(transport)
    client.send(b"first")
    await asyncio.sleep(0)
    for number in range(5000):
        client.send(b" %d" % number, newest="progress")
    client.send(b" last")
    assert len(client._waiting) <= 2 * BEHIND + 1
    await transport.looked_at(5)
    assert transport.sent == [b"first"]
    transport.stuck = False
    await _sent(client)
    _, *numbers, last = b"".join(transport.sent).split()
    assert (numbers[-1], last) == (b"4999", b"last")
    assert sorted(map(int, numbers)) == list(map(int, numbers))
    assert len(numbers) <= BEHIND + 1
    assert not transport.aborted


async def test_a_client_that_keeps_up_gets_all_progress_in_few_writes() -> None:
    transport = Transport(stuck=False)
    client = _client(transport)
    for number in range(BEHIND):
        client.send(b"%d " % number, newest="progress")
    await _sent(client)
    assert transport.sent == [b"".join(b"%d " % number for number in range(BEHIND))]


async def test_a_crowd_is_told_the_newest_progress_and_everything_else_in_order() -> None:
    hub, transports = Hub(), []
    for number in range(50):
        transports.append(Transport(stuck=False))
        hub.add(Client(str(number), transports[-1], most_bytes=1_000_000, timeout=60))  # type: ignore[arg-type]
    for value in range(500):
        hub.on_event(Progress(job_id="job", node="1", value=value, max=500))
        if value % 100 == 0:
            hub.on_event(Message(message_type="note", content=value))
    await hub.flush(1)
    for transport in transports:
        assert len(transport.sent) == 1
        messages = b"".join(transport.sent)
        assert messages.count(b'"progress"') == 1
        assert b'"value":499' in messages
        assert re.findall(rb'"note","data":(\d+)', messages) == [b"0", b"100", b"200", b"300", b"400"]


async def test_a_client_for_which_too_much_waits_is_dropped(caplog: Any) -> None:
    transport = Transport()
    client = _client(transport)
    for _ in range(60):
        client.send(b"x" * 100_000)
        await asyncio.sleep(0)
    assert transport.aborted
    assert "is dropped" in caplog.text
    client.send(b"more")
    assert client.idle


async def test_a_client_that_takes_in_nothing_for_long_is_dropped(caplog: Any) -> None:
    transport = Transport()
    client = _client(transport, timeout=0.05)
    client.send(b"x")
    await asyncio.sleep(0)
    client.send(b"y")
    await asyncio.wait_for(transport.gone.wait(), 10)
    assert transport.aborted
    assert "took in nothing" in caplog.text


async def test_what_comes_at_once_drops_no_client_that_reads() -> None:
    transport = Transport(stuck=False)
    client = _client(transport, most_bytes=10_000)
    for _ in range(3 * BEHIND):
        client.send(b"x" * 10_000)
    await _sent(client)
    assert len(b"".join(transport.sent)) == 3 * BEHIND * 10_000
    assert not transport.aborted


async def test_what_is_in_no_hurry_goes_with_the_next_message() -> None:
    transport = Transport(stuck=False)
    client = _client(transport)
    client.send(b"queue 1 ", newest="queue", patient=True)
    client.send(b"queue 2 ", newest="queue", patient=True)
    for _ in range(3):  # a message that is in a hurry would have gone out
        await asyncio.sleep(0)
    assert transport.sent == []
    client.send(b"start ")
    client.send(b"queue 3 ", newest="queue", patient=True)
    await asyncio.sleep(0)
    assert transport.sent == [b"start queue 3 "]
    client.send(b"queue 4", newest="queue", patient=True)
    await _sent(client)
    assert transport.sent[1:] == [b"queue 4"]
