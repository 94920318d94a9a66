"""Events reach every listener on the loop, in order, from any thread."""

from __future__ import annotations

import asyncio
import threading

from comfyk.event_bus import EventBus
from comfyk.events import Progress, QueueChanged


def event(value):
    return QueueChanged(queue_remaining=value)


async def test_events_of_a_thread_arrive_in_order_on_the_loop():
    bus, heard, done = EventBus(), [], asyncio.Event()
    bus.attach(asyncio.get_running_loop())

    def listen(event):
        assert threading.current_thread() is threading.main_thread()
        heard.append(event.queue_remaining)
        if len(heard) == 1000:
            done.set()

    bus.subscribe(listen)
    thread = threading.Thread(target=lambda: [bus.emit(event(value)) for value in range(1000)])
    thread.start()
    await asyncio.wait_for(done.wait(), 10)
    thread.join()
    assert heard == list(range(1000))


async def test_a_listener_that_fails_does_not_keep_others_from_hearing(caplog):
    bus, heard = EventBus(), []
    bus.attach(asyncio.get_running_loop())
    bus.subscribe(lambda event: 1 / 0)
    unsubscribe = bus.subscribe(heard.append)
    bus.emit(event(1))
    bus.deliver()
    unsubscribe()
    bus.emit(event(2))
    bus.deliver()
    assert [one.queue_remaining for one in heard] == [1]
    assert "ZeroDivisionError" in caplog.text


async def test_events_before_there_is_a_loop_wait_for_it():
    bus, heard = EventBus(), []
    bus.subscribe(heard.append)
    bus.emit(event(1))
    assert not heard
    bus.attach(asyncio.get_running_loop())
    bus.emit(event(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [one.queue_remaining for one in heard] == [1, 2]


def test_data_is_what_goes_over_the_wire():
    progress = Progress(client_id="c", job_id="j", node="1", value=2, max=20)
    assert progress.type == "progress"
    assert progress.data() == {"value": 2, "max": 20, "prompt_id": "j", "node": "1"}
