"""The settings of the web UI, kept for each user in one JSON file."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfyk.atomic import write_file
from comfyk.folders import resolve_inside

log = logging.getLogger(__name__)

FILE = "comfy.settings.json"

_lock = threading.Lock()  # one for all users: a change takes milliseconds, and is made by a person


def load(folder: Path) -> dict[str, Any]:
    """All settings of the user with this folder; none when there is no file, or it is broken."""
    return _read(resolve_inside(folder, FILE))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        problem = "it holds no JSON object"
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        problem = str(error)
    log.error("the settings %s cannot be read: %s", path, problem)
    return {}


def update(folder: Path, changes: Mapping[str, Any]) -> None:
    """Change some settings and leave the others. Raises OSError."""
    path = resolve_inside(folder, FILE)
    with _lock:
        settings = _read(path)
        if not settings and path.exists() and path.read_bytes().strip() not in (b"", b"{}"):
            path.replace(path.with_name(f"{FILE}.broken"))  # somebody may want to mend it
        text = json.dumps({**settings, **changes}, indent=4, ensure_ascii=False)
        write_file(path, text.encode("utf-8", "surrogatepass"))
