"""How an upload gets its place on disk, where the file system makes it hard."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
from comfyk.api import ReceivedFile, remove_leftovers
from comfyk.atomic import write_file
from comfyk.folders import Folders, PathOutsideError


async def received(folder: Path, data: bytes = b"data") -> ReceivedFile:
    file = ReceivedFile(folder)
    await file.write(data)
    file.finish()
    return file


async def test_what_is_not_placed_is_gone(tmp_path: Path) -> None:
    with await received(tmp_path):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


async def test_large_files_are_written_as_they_come(tmp_path: Path) -> None:
    with ReceivedFile(tmp_path) as file:
        for _ in range(40):
            await file.write(b"x" * 100_000)
        assert file.path.stat().st_size >= 3_000_000
        file.finish()
        assert file.place(tmp_path, "", "x.bin", overwrite=False) == "x.bin"
    assert (tmp_path / "x.bin").stat().st_size == 4_000_000


async def test_an_upload_to_another_disk_is_copied_there_first(tmp_path: Path, monkeypatch: Any) -> None:
    stat = os.stat

    def other_disk(path: Any, **options: Any) -> Any:
        found = stat(path, **options)
        return os.stat_result((*found[:2], 99, *found[3:])) if str(path).endswith("other") else found

    monkeypatch.setattr("comfyk.api.received.os.stat", other_disk)
    with await received(tmp_path) as file:
        assert file.place(tmp_path / "other", "", "x.bin", overwrite=True) == "x.bin"
    assert [path.name for path in tmp_path.rglob("*")] == ["other", "x.bin"]
    assert (tmp_path / "other/x.bin").read_bytes() == b"data"


async def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr("comfyk.api.received.os.link", refuse)
    for data, name in ((b"1", "x.bin"), (b"2", "x (1).bin"), (b"1", "x.bin")):
        with await received(tmp_path, data) as file:
            assert file.place(tmp_path, "", "x.bin", overwrite=False) == name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x (1).bin", "x.bin"]


async def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "x.bin").symlink_to(tmp_path / "outside.bin")
    (folder / "y.bin").symlink_to(folder / "missing.bin")
    with await received(folder) as file:
        with pytest.raises(PathOutsideError):
            file.place(folder, "", "x.bin", overwrite=True)
        assert file.place(folder, "", "y.bin", overwrite=False) == "y (1).bin"
    assert not (tmp_path / "outside.bin").exists()
    assert not (folder / "missing.bin").exists()


async def test_leftovers_of_a_killed_server_are_removed_and_what_arrives_is_not(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.create()
    for path in (folders.input / ".comfyk-upload-left", folders.input / "picture.png"):
        path.write_bytes(b"")
    with ReceivedFile(folders.input) as arriving, await received(folders.input) as arrived:
        remove_leftovers(folders)
        names = {path.name for path in folders.input.iterdir()}
        assert names == {"picture.png", arriving.path.name, arrived.path.name}
        assert arrived.place(folders.output, "", "x.bin", overwrite=False) == "x.bin"
    remove_leftovers(folders)
    assert [path.name for path in folders.input.iterdir()] == ["picture.png"]
    assert (folders.output / "x.bin").read_bytes() == b"data"


def test_without_locks_a_leftover_is_told_by_its_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("comfyk.api.received.try_lock", no_locks)
    folders = Folders(tmp_path)
    folders.create()
    old, new = folders.input / ".comfyk-upload-old", folders.input / ".comfyk-upload-new"
    for path in (old, new):
        path.write_bytes(b"")
        age = time.time() - (2 * 86400 if path is old else 0)
        os.utime(path, (age, age))
    remove_leftovers(folders)
    assert [path.name for path in folders.input.iterdir()] == [".comfyk-upload-new"]


@pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")
def test_what_a_kill_left_half_written_is_removed_once_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = Folders(tmp_path)
    folders.create()
    file = folders.user / "default" / "comfy.settings.json"

    def kill(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("comfyk.atomic.os.replace", kill)
        patch.setattr(Path, "unlink", kill)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                write_file(file, "{}")
    old, new = file.parent.iterdir()
    os.utime(old, (0, 0))
    theirs = file.with_name(".theirs.d41d8cd98f00b204e9800998ecf8427e")
    theirs.write_bytes(b"")
    os.utime(theirs, (0, 0))
    remove_leftovers(folders)
    assert set(file.parent.iterdir()) == {new, theirs}


def test_leftovers_in_subfolders_are_removed_and_nothing_behind_a_link(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "base")
    folders.create()
    outside = tmp_path / "outside"
    kept, gone = [], []
    for folder, stays in (
        (folders.input / "clipspace", False),
        (folders.output / "a" / "b" / "c", False),
        (folders.user / "default" / "workflows" / "old", False),
        (folders.user / "comfyk" / "generations" / "7" / "site", True),
        (outside, True),
    ):
        folder.mkdir(parents=True)
        path = folder / ".comfyk-upload-1"
        path.write_bytes(b"")
        os.utime(path, (0, 0))
        (kept if stays else gone).append(path)
    (folders.output / "linked").symlink_to(outside)
    (folders.output / "circle").symlink_to(folders.output)
    (folders.temp / ".comfyk-upload-folder").mkdir()
    os.utime(folders.temp / ".comfyk-upload-folder", (0, 0))
    remove_leftovers(folders)
    assert [path for path in gone if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []
    assert (folders.temp / ".comfyk-upload-folder").is_dir()


def test_a_walk_for_leftovers_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfyk.api.received._MOST_ENTRIES", 5)
    folders = Folders(tmp_path)
    folders.create()
    for number in range(10):
        (folders.input / f"{number}").mkdir()
    top, deep = folders.input / ".comfyk-upload-top", folders.input / "3" / ".comfyk-upload-deep"
    for path in (top, deep):
        path.write_bytes(b"")
        os.utime(path, (0, 0))
    remove_leftovers(folders)
    assert not top.exists() and deep.exists()
