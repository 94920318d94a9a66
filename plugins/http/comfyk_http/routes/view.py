"""`/view`: a file of the input, output or temp folder, whole or as a picture to show."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from zlib import crc32

from aiohttp import web
from comfyk.api import ApiError, client_has, disposition, file_answer, operation
from comfyk.folders import Folders, PathOutsideError, is_reference

from comfyk_http import pictures
from comfyk_http.answer_descriptions import gives, sends
from comfyk_http.keys import APP, PICTURES
from comfyk_http.requests import ViewQuery


async def locate(folders: Folders, filename: str, type: str, subfolder: str) -> Path | None:
    """The file that a client means; an annotation such as `photo.png [input]` counts more than `type`.

    None when there is no such file. Raises ValueError for a name or type that cannot be.
    """
    if is_reference(filename):  # a plugin looks it up, in a database perhaps
        path = await asyncio.to_thread(folders.annotated, filename, type, subfolder)
    else:
        path = folders.annotated(filename, type, subfolder)
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
    folders = request.app[APP].folders
    try:
        path = await locate(folders, query.filename, query.type, query.subfolder)
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
    return file_answer(request, path)


async def _picture(request: web.Request, path: Path, preview: str | None, channel: str) -> web.StreamResponse:
    tag = _picture_tag(path, preview, channel)
    headers = {"ETag": f'W/"{tag}"', "Cache-Control": "no-cache"}
    if client_has(request, tag):
        return web.Response(status=304, headers=headers)
    try:
        if preview is not None:
            work = partial(pictures.preview, preview=preview, channel=channel)
        else:
            work = partial(pictures.channel, channel=channel)
        body, type = await request.app[PICTURES].run(request, path, work)
    except pictures.PictureError as error:
        if channel in ("rgb", "a"):
            raise ApiError(
                404, "not_a_picture", f"{path.name}: {error}", extra_info={"field": "channel"}
            ) from None
        # A preview is a hint: the file itself is shown where there cannot be one.
        return file_answer(request, path)
    return web.Response(
        body=body,
        content_type=type,
        headers={**headers, "Content-Disposition": disposition("inline", path.name)},
    )


def _picture_tag(path: Path, preview: str | None, channel: str) -> str:
    stat = path.stat()
    return f"{stat.st_mtime_ns:x}-{stat.st_size:x}-{crc32(repr((preview, channel)).encode()):x}"
