"""Names of saved files: the patterns in a prefix, and which number comes next."""

from __future__ import annotations

import os
import posixpath
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from comfyk.folders import PathOutsideError, resolve_inside

TEMPORARY_PREFIX = ".comfyk-saving-"
_STALE_AFTER_S = 3600
_BATCH_NUMBER = "%batch_num%"
_LONGEST_NAME = 255
_ROOM_FOR_COUNTER = 32
"""Bytes of a file name kept for the batch number, the counter and the extension."""

_CASE = re.IGNORECASE if os.path.normcase("A") == "a" else re.NOFLAG
_INVALID = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
_DATE_PART = re.compile(r"y{2,4}|dd?|MM?|hh?|mm?|ss?")
_TOKEN = re.compile(
    r"%(?:date:(?P<date>[^%]*)|(?P<size>width|height)|(?P<time>year|month|day|hour|minute|second)"
    r"|(?P<node>[^%]+)\.(?P<widget>[^%.]+))%"
)
_TIME_FORMATS = {
    "year": "yyyy",
    "month": "MM",
    "day": "dd",
    "hour": "hh",
    "minute": "mm",
    "second": "ss",
}


class SaveError(ValueError):
    """A file cannot be saved under the prefix that was asked for; the message names it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a batch of files goes: `directory`, which is `subfolder` of the folder it was resolved in."""

    prefix: str
    """As the user gave it."""
    directory: Path
    subfolder: str
    """With `/` between names, empty for none."""
    stem: str
    """The name in front of the counter; may still hold `%batch_num%`."""

    def filename(self, counter: int, batch_number: int, extension: str, tail: str = "_") -> str:
        """`ComfyUI_00001_.png`; `tail` is what stands between the counter and the extension."""
        return f"{self.stem.replace(_BATCH_NUMBER, str(batch_number))}_{counter:05}{tail}{extension}"


def resolve_prefix(
    prefix: str,
    root: Path,
    *,
    width: int = 0,
    height: int = 0,
    prompt: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> Target:
    """Fill in a prefix such as `%date:yyyy-MM-dd%/%KSampler.seed%` and make its folder below `root`.

    `width` and `height` are in pixels; `prompt` holds the values for `%Node.widget%`. Raises SaveError when
    the prefix leads out of `root` or the folder cannot be made.
    """
    target = find_target(prefix, root, width=width, height=height, prompt=prompt, now=now)
    directory = target.directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"filename_prefix {prefix!r}: cannot make {directory}: {error.strerror}") from error
    return target


def find_target(
    prefix: str,
    root: Path,
    *,
    width: int = 0,
    height: int = 0,
    prompt: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> Target:
    """As `resolve_prefix`, without making the folder."""
    filled = fill_prefix(prefix, width=width, height=height, prompt=prompt, now=now)
    if filled.startswith(("/", "\\")):
        raise SaveError(f"filename_prefix {prefix!r} is an absolute path; give one below the output folder")
    path = posixpath.normpath(filled.replace("\\", "/"))
    subfolder, stem = posixpath.split(path)
    stem = _shorten("ComfyUI" if stem == "." else stem)
    if stem == "..":
        raise SaveError(f"filename_prefix {prefix!r} leads out of the output folder")
    try:
        directory = resolve_inside(root, subfolder)
        target = Target(prefix, directory, subfolder, stem)
        resolve_inside(directory, target.filename(1, 1, ".png"))
    except PathOutsideError as error:
        raise SaveError(f"filename_prefix {prefix!r} cannot be used: {error}") from None
    return target


def fill_prefix(
    prefix: str,
    *,
    width: int = 0,
    height: int = 0,
    prompt: Mapping[str, Any] | None = None,
    now: datetime | None = None,
) -> str:
    """Replace the patterns of a prefix, all but `%batch_num%`; one that means nothing stays as it is.

    `%date:FORMAT%` knows `d dd M MM yy yyyy h hh m mm s ss` (hours 0 to 23). `%Node.widget%` is the value
    that the prompt has for an input of the node with that title, else that class, else that id.
    """
    if "%" not in prefix:
        return prefix
    moment = now or datetime.now()

    def replace(match: re.Match[str]) -> str:
        if match["date"] is not None:
            return format_date(match["date"], moment)
        if match["size"]:
            return str(width if match["size"] == "width" else height)
        if match["time"]:
            return format_date(_TIME_FORMATS[match["time"]], moment)
        value = _widget_value(prompt or {}, match["node"], match["widget"])
        return match[0] if value is None else _INVALID.sub("_", value)

    return _TOKEN.sub(replace, prefix)


def format_date(pattern: str, moment: datetime) -> str:
    """`yyyy-MM-dd hh:mm:ss` in the way of the ComfyUI frontend: one letter gives no leading zero."""
    values = {"d": moment.day, "M": moment.month, "h": moment.hour, "m": moment.minute, "s": moment.second}

    def replace(match: re.Match[str]) -> str:
        part = match[0]
        if part[0] == "y":
            return {2: f"{moment.year % 100:02}", 4: f"{moment.year:04}"}.get(len(part), part)
        return str(values[part[0]]).zfill(len(part))

    return _DATE_PART.sub(replace, pattern)


def next_counter(target: Target) -> int:
    """One more than the highest counter among the files of this stem, whatever their extension.

    Removes what a killed process left behind here, too. Another process may take the number in the meantime.
    """
    stem = re.escape(target.stem).replace(re.escape(_BATCH_NUMBER), r"\d+")
    numbered = re.compile(rf"{stem}_(\d{{1,18}})(?:[_.]|$)", _CASE)
    highest = 0
    for name in os.listdir(target.directory):
        match = numbered.match(name)
        if match:
            highest = max(highest, int(match[1]))
        elif name.startswith(TEMPORARY_PREFIX):
            _remove_if_stale(target.directory / name)
    return highest + 1


def _remove_if_stale(path: Path) -> None:
    with suppress(OSError):  # somebody else was faster
        if time.time() - path.stat().st_mtime > _STALE_AFTER_S:
            path.unlink()


def _widget_value(prompt: Mapping[str, Any], name: str, widget: str) -> str | None:
    """The text of a literal input, or of the `value` of the primitive node it is linked to."""
    for node in _nodes_called(prompt, name):
        value = _inputs(node).get(widget)
        for _ in range(len(prompt)):
            if not isinstance(value, list) or not value:
                break
            value = _inputs(prompt.get(str(value[0]))).get("value")
        match value:
            case bool():
                return str(value).lower()
            case float() if value.is_integer():
                return str(int(value))
            case str() | int() | float():
                return str(value)
    return None


def _nodes_called(prompt: Mapping[str, Any], name: str) -> list[Any]:
    nodes = [node for node in prompt.values() if isinstance(node, Mapping)]
    titled = [
        node for node in nodes if isinstance(m := node.get("_meta"), Mapping) and m.get("title") == name
    ]
    of_class = [node for node in nodes if node.get("class_type") == name]
    return titled or of_class or [prompt.get(name)]


def _inputs(node: Any) -> Mapping[str, Any]:
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    return inputs if isinstance(inputs, Mapping) else {}


def _shorten(stem: str) -> str:
    """Cut a name that would be too long for a file system, as the text of a prompt is."""
    longest = _LONGEST_NAME - _ROOM_FOR_COUNTER
    encoded = stem.encode("utf-8", "surrogatepass")
    return stem if len(encoded) <= longest else encoded[:longest].decode("utf-8", "ignore")
