"""Which picture a client gets that asked for one in place of JSON (`Accept: image/*`), out of all that a job made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from comfyk.api import content_type, runs_in_browser

_JSON = "application/json"


class Picture(NamedTuple):
    """A file that a job made, as the client may ask `/view` for it."""

    filename: str
    type: str
    subfolder: str


def accepted_pictures(accept: str) -> list[str]:
    """The media ranges of pictures in an `Accept` header, the most wanted first; none when JSON is wanted as much."""
    wanted: dict[str, float] = {}
    for part in accept.split(","):
        range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        wanted[range] = next((_quality(one) for one in parameters if one.startswith("q=")), 1.0)
    pictures = [
        range for range in wanted if range.startswith("image/") and wanted[range] > wanted.get(_JSON, 0)
    ]
    return sorted(pictures, key=lambda range: -wanted[range])


def pictures_of(outputs: Mapping[str, Any], ranges: list[str]) -> list[Picture]:
    """The pictures of a job that are in one of the media ranges, the best first: saved ones before previews."""
    found: dict[Picture, tuple[bool, int]] = {}
    for picture in _pictures(outputs):
        type = _type_of(picture)
        places = [place for place, range in enumerate(ranges) if range in (type, "image/*")]
        if type.startswith("image/") and places:
            found[picture] = picture.type != "output", places[0]
    return sorted(found, key=lambda picture: found[picture])


def _quality(parameter: str) -> float:
    try:
        return float(parameter.removeprefix("q="))
    except ValueError:
        return 0.0


def _type_of(picture: Picture) -> str:
    """No picture to those for whom it would be a program, such as SVG."""
    type = content_type(picture.filename)
    return "" if runs_in_browser(type) else type


def _pictures(outputs: Mapping[str, Any]) -> Iterator[Picture]:
    """All files that the job made and that nodes show; what a pack's node shows may be anything."""
    for node in outputs.values():
        for items in node.values() if isinstance(node, dict) else ():
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict) and isinstance(item.get("filename"), str):
                    subfolder, type = item.get("subfolder", ""), item.get("type", "output")
                    if isinstance(subfolder, str) and type in ("output", "temp"):
                        yield Picture(item["filename"], type, subfolder)
