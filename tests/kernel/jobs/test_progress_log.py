"""What the console shows of nodes under way."""

from __future__ import annotations

import io
import logging

import pytest
from comfyk.events import JobEnded, Progress
from comfyk.jobs.progress_log import ProgressLog


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def steps(show: ProgressLog, clock: Clock, count: int, pause: float, node: str = "3") -> None:
    for value in range(1, count + 1):
        show(Progress(job_id="j", node=node, value=value, max=count))
        clock.now += pause


def class_of(job_id: str, node_id: str) -> str | None:
    return "KSampler" if (job_id, node_id) == ("j", "3") else None


@pytest.fixture
def clock() -> Clock:
    return Clock()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "comfyk.progress"]


def test_a_short_loop_is_one_line_at_its_end(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    steps(ProgressLog(class_of, None, clock), clock, 20, 0.1)
    assert said(caplog) == ["KSampler (3): 20 of 20, 1.9 s, 10.53 a second"]


def test_a_long_one_is_told_of_every_ten_seconds(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    steps(ProgressLog(class_of, None, clock), clock, 4, 6.0)
    assert [line.partition(",")[0] for line in said(caplog)] == [
        "KSampler (3): 3 of 4",
        "KSampler (3): 4 of 4",
    ]


def test_a_node_that_is_done_at_once_is_not_worth_a_line(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    show = ProgressLog(class_of, None, clock)
    for number in range(5000):
        steps(show, clock, 3, 0.0001, node=f"n{number}")
    assert said(caplog) == []


def test_each_loop_of_a_node_is_told_of(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    show = ProgressLog(class_of, None, clock)
    steps(show, clock, 5, 0.1)
    steps(show, clock, 5, 0.1)
    show(JobEnded(job_id="j", status="completed"))
    steps(show, clock, 5, 0.1, node="other")
    assert [line.partition(",")[0] for line in said(caplog)] == [
        "KSampler (3): 5 of 5",
        "KSampler (3): 5 of 5",
        "node other: 5 of 5",
    ]


def test_on_a_terminal_there_is_a_bar_that_goes_away(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    terminal = io.StringIO()
    steps(ProgressLog(class_of, terminal, clock), clock, 4, 1.0)
    drawn = terminal.getvalue().split("\r")[1:]
    assert drawn[0].startswith("[############------------]  50% KSampler (3): 2 of 4")
    assert drawn[-2].strip() == "" and drawn[-1] == ""  # overwritten, and the cursor back at the start
    assert len(drawn[-2]) >= max(map(len, drawn[:-2]))
    assert said(caplog) == ["KSampler (3): 4 of 4, 3.0 s, 1.33 a second"]


def test_a_job_that_ends_in_the_middle_takes_its_bar_along(clock: Clock) -> None:
    terminal = io.StringIO()
    show = ProgressLog(class_of, terminal, clock)
    show(Progress(job_id="j", node="3", value=1, max=4))
    clock.now += 1
    show(Progress(job_id="j", node="3", value=2, max=4))
    show(JobEnded(job_id="j", status="cancelled"))
    assert terminal.getvalue().endswith("\r") and terminal.getvalue().split("\r")[-2].strip() == ""


def test_a_terminal_that_is_gone_stops_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    terminal = io.StringIO()
    terminal.close()
    steps(ProgressLog(class_of, terminal, clock), clock, 4, 1.0)
    assert said(caplog)[-1].startswith("KSampler (3): 4 of 4")
