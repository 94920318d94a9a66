"""Files that are either the old ones or the new ones, never half of either."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from pathlib import Path

__all__ = ["write_file"]


UNFINISHED = ".comfyk-new"
"""How the name of a file ends that is being written."""


def write_file(path: Path, data: str | bytes, *, private: bool = False) -> None:
    """Replace what is in a file, or make it, with the folders above it; text is written as UTF-8.

    It is on the disk when this returns. A file that is there keeps its permissions, and a link stays one: what it
    leads to is replaced. `private` keeps other users of the machine from reading the file. Raises OSError; then
    the old file is as it was, and nothing else is left. The new content lies beside the file for a moment, under a
    hidden name: a process that is killed just then leaves it behind, for the next start to remove.
    """
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    content = data.encode("utf-8") if isinstance(data, str) else data
    new = target.with_name(f".{target.name[:40]}.{uuid.uuid4().hex}{UNFINISHED}")
    mode = 0o600 if private else 0o666
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            if not private:
                with contextlib.suppress(FileNotFoundError):
                    new.chmod(stat.S_IMODE(target.stat().st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, target)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Have the renaming itself on the disk, where a folder can be synced: not on Windows."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
