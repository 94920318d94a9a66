"""Locks on files: one holder at a time, whatever becomes of it, and an error where there are no locks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from comfyk import locks
from comfyk.locks import hold_lock, try_lock

HOLDER = """
import sys
from pathlib import Path
from comfyk.locks import hold_lock

with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until it is killed, or told something."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    return child


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert try_lock(first) and not try_lock(second)
    os.close(first)
    assert try_lock(second)
    os.close(second)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_holder_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    child = holder(tmp_path / "lock")
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with hold_lock(tmp_path / "lock"):
        assert (tmp_path / "lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_who_waits_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.05)
    child = holder(tmp_path / "lock")
    with pytest.raises(TimeoutError, match="another process holds it"), hold_lock(tmp_path / "lock"):
        pass
    child.communicate("enough\n")
    with hold_lock(tmp_path / "lock"):
        pass


def test_a_lock_that_cannot_be_had_leaves_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with hold_lock(tmp_path / "lock"):
        monkeypatch.setattr(locks, "_PATIENCE_S", 0)
        with pytest.raises(TimeoutError), hold_lock(tmp_path / "lock"):
            pass
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO, errno.ENOSYS])
def test_a_file_system_without_locks_is_not_one_whose_lock_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks, "_lock", refuse)
    with (tmp_path / "lock").open("wb") as file, pytest.raises(OSError) as raised:
        try_lock(file.fileno())
    assert raised.value.errno == number
    with hold_lock(tmp_path / "lock"):  # nobody is kept out, and all goes on
        pass
