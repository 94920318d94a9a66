"""`/view`: a file of the input, output or temp folder, whole or as a picture to show."""

from __future__ import annotations

import asyncio
from pathlib import Path
from zlib import crc32

from aiohttp import web
from comfyk.api import ApiError
from comfyk.folders import Folders, PathOutsideError, resolve_inside, split_annotation

from comfyk_http import pictures
from comfyk_http.answers import FileAnswer, client_has, disposition
from comfyk_http.described import gives, operation, sends
from comfyk_http.files import content_type, runs_in_browser
from comfyk_http.keys import APP
from comfyk_http.requests import ViewQuery


def locate(folders: Folders, filename: str, type: str, subfolder: str) -> Path | None:
    """The file that a client means; an annotation such as `photo.png [input]` counts more than `type`.

    None when there is no such file. Raises ValueError for a name or type that cannot be.
    """
    name, annotated = split_annotation(filename)
    folder = folders.directory(annotated or type)
    # With an annotation the name is whole: `subfolder` belongs to names without one.
    path = resolve_inside(folder, subfolder, name)
    return path if path.is_file() else None


@operation(
    "viewFile",
    "A file, whole or as a picture to show",
    tag="view",
    answers={
        200: sends("The file", "image/*", "video/*", "audio/*", "application/octet-stream", "*/*"),
        206: sends("The range that was asked for", "*/*"),
        404: gives("There is no such file, or it has no such channel", "ErrorObject"),
    },
)
async def view(request: web.Request, query: ViewQuery) -> web.StreamResponse:
    """With `preview` (such as `webp;90`) or `channel` a picture made of it; what is no picture has no preview."""
    try:
        path = locate(request.app[APP].folders, query.filename, query.type, query.subfolder)
    except PathOutsideError as error:
        raise ApiError(404, "not_found", f"No such file: {error}") from None
    except ValueError as error:
        raise ApiError(404, "not_found", str(error), extra_info={"field": "type"}) from None
    except OSError:
        path = None
    if path is None:
        raise ApiError(404, "not_found", "File not found", extra_info={"field": "filename"})
    if query.preview is not None or query.channel in ("rgb", "a"):
        return await _picture(request, path, query.preview, query.channel or "")
    return _file(request, path)


async def _picture(request: web.Request, path: Path, preview: str | None, channel: str) -> web.StreamResponse:
    tag = _picture_tag(path, preview, channel)
    headers = {"ETag": f'W/"{tag}"', "Cache-Control": "no-cache"}
    if client_has(request, tag):
        return web.Response(status=304, headers=headers)
    try:
        if preview is not None:
            body, type = await asyncio.to_thread(pictures.preview, path, preview, channel)
        else:
            body, type = await asyncio.to_thread(pictures.channel, path, channel)
    except pictures.PictureError as error:
        if channel in ("rgb", "a"):
            raise ApiError(
                404, "not_a_picture", f"{path.name}: {error}", extra_info={"field": "channel"}
            ) from None
        # A preview is a hint: the file itself is shown where there cannot be one.
        return _file(request, path)
    return web.Response(
        body=body,
        content_type=type,
        headers={**headers, "Content-Disposition": disposition("inline", path.name)},
    )


def _picture_tag(path: Path, preview: str | None, channel: str) -> str:
    stat = path.stat()
    return f"{stat.st_mtime_ns:x}-{stat.st_size:x}-{crc32(repr((preview, channel)).encode()):x}"


def _file(request: web.Request, path: Path) -> FileAnswer:
    """The file as it is, with ranges and validators; what a browser would run is only ever saved."""
    type = content_type(path.name)
    headers = {"Content-Disposition": disposition("inline", path.name)}
    if runs_in_browser(type):
        # An SVG in an <img> cannot run scripts. The header is one that scripts cannot set; since the answer
        # depends on it, no cache may keep it.
        headers |= {"Vary": "Sec-Fetch-Dest", "Cache-Control": "no-store"}
        if type != "image/svg+xml" or request.headers.get("Sec-Fetch-Dest") != "image":
            type = "application/octet-stream"
            headers["Content-Disposition"] = disposition("attachment", path.name)
    headers["Content-Type"] = type
    headers["X-Content-Type-Options"] = "nosniff"
    return FileAnswer(path, headers=headers)
