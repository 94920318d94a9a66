"""Small files that are either the old ones or the new ones, never half of either."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_file(path: Path, data: bytes, *, private: bool = False) -> None:
    """Replace a file; `private` keeps other users of the machine from reading it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(
            os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666), "wb"
        ) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
