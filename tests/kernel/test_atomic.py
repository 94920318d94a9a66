"""Files that are replaced as a whole."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from comfyk.atomic import write_file

posix = pytest.mark.skipif(os.name != "posix", reason="permissions and links as on POSIX")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_made_with_its_folders_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "file.txt"
    write_file(file, "ä\r\n")
    assert file.read_bytes() == "ä\r\n".encode()
    write_file(file, b"\xff")
    assert file.read_bytes() == b"\xff" and names(file.parent) == ["file.txt"]


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    write_file(tmp_path / ("ä" * 127), "x")
    assert names(tmp_path) == ["ä" * 127]


@posix
def test_permissions_are_kept_and_private_files_are_private(tmp_path: Path) -> None:
    file = tmp_path / "file"
    old = os.umask(0o027)
    try:
        write_file(file, "1")
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        file.chmod(0o604)
        write_file(file, "2")
        assert stat.S_IMODE(file.stat().st_mode) == 0o604
        write_file(file, "3", private=True)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    finally:
        os.umask(old)


@posix
def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real" / "file")
    write_file(link, "first")
    write_file(link, "second")
    assert link.is_symlink() and (tmp_path / "real" / "file").read_text() == "second"
    assert names(tmp_path) == ["link", "real"] and names(tmp_path / "real") == ["file"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "inside").touch()
    with pytest.raises(OSError):
        write_file(folder, "x")
    assert names(tmp_path) == ["taken"] and names(folder) == ["inside"]
    with pytest.raises(OSError):
        write_file(folder / "inside" / "file", "x")
    with pytest.raises(UnicodeEncodeError):
        write_file(tmp_path / "file", "\ud800")
    assert names(tmp_path) == ["taken"]


def test_a_reader_sees_the_whole_of_one_content_while_another_process_writes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_file(file, "a" * 100_000)
    code = (
        "from pathlib import Path\nfrom comfyk.atomic import write_file\n"
        f"for one in 'bcd' * 20: write_file(Path({str(file)!r}), one * 100_000)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code])
    try:
        while writer.poll() is None:
            text = file.read_text()
            assert len(text) == 100_000 and len(set(text)) == 1
    finally:
        writer.kill()
        writer.wait()
    assert file.read_text() == "d" * 100_000 and names(tmp_path) == ["file"]
