"""`/upload/image` and `/upload/mask`: a file comes in. It goes to the disk as it comes, never into memory whole."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import BadHttpMessage
from comfyk.api import ApiError, BadField
from comfyk.folders import PathOutsideError

from comfyk_http import pictures
from comfyk_http.answers import json_answer
from comfyk_http.described import gives, operation
from comfyk_http.errors import too_large
from comfyk_http.keys import APP
from comfyk_http.requests import MaskForm, UploadForm, parse
from comfyk_http.routes.view import locate
from comfyk_http.uploads import Incoming

F = TypeVar("F", bound=UploadForm)

_PIECE = 256 * 1024
_LONGEST_FIELD = 64 * 1024
_MOST_FIELDS = 100
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_A_NAME = (errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


@dataclass(slots=True)
class _Form:
    """The upload: the file, its name, and the other fields."""

    file: Incoming
    filename: str = ""
    has_file: bool = False
    fields: dict[str, str] = field(default_factory=dict)

    def read(self, model: type[F]) -> F:
        """Check the fields. Raises BadField."""
        return parse(model, {**self.fields, "image": self.filename})


_ANSWERS = {
    200: gives("The name that the file got", "UploadResult"),
    400: gives("There is no file, or it cannot be stored under that name", "ErrorObject"),
}


@operation("uploadImage", "Store a file", tag="upload", form=UploadForm, answers=_ANSWERS)
async def upload_image(request: web.Request) -> web.Response:
    """If there is another file of that name, it gets a number, unless `overwrite` is `true`."""
    async with _received(request) as form:
        return await _place(request, form.file, form.read(UploadForm))


@operation("uploadMask", "Store a masked picture", tag="upload", form=MaskForm, answers=_ANSWERS)
async def upload_mask(request: web.Request) -> web.Response:
    """A copy of the picture `original_ref` with the sent picture's alpha channel."""
    async with _received(request) as form:
        asked = form.read(MaskForm)
        ref = asked.original_ref
        try:
            original = locate(request.app[APP].folders, ref.filename, ref.type, ref.subfolder)
        except (ValueError, OSError) as error:
            raise BadField("original_ref", str(error)) from None
        if original is None:
            raise BadField("original_ref", f"there is no file {ref.filename!r}")
        try:
            await asyncio.to_thread(pictures.put_mask, original, form.file.path, asked.image)
        except pictures.PictureError as error:
            raise BadField("image", str(error)) from None
        return await _place(request, form.file, asked)


async def _place(request: web.Request, file: Incoming, asked: UploadForm) -> web.Response:
    root = request.app[APP].folders.directory(asked.type)
    try:
        name = await asyncio.to_thread(
            file.place, root, asked.subfolder, asked.image, overwrite=asked.overwrites
        )
    except PathOutsideError as error:
        raise BadField("image", str(error)) from None
    return json_answer({"name": name, "subfolder": asked.subfolder, "type": asked.type})


@asynccontextmanager
async def _received(request: web.Request) -> AsyncIterator[_Form]:
    """The whole form, read to its end. Raises ApiError for what is no upload, is too large or finds no room."""
    if request.content_type != "multipart/form-data":
        raise ApiError(400, "invalid_request", "An upload has to be multipart/form-data.")
    if (request.content_length or 0) > request.client_max_size:
        raise too_large(request)
    try:
        # Most uploads are inputs; which folder it is may be said after the file.
        with Incoming(request.app[APP].folders.input) as incoming:
            form = _Form(incoming)
            try:
                await _read(request, form)
            except (BadHttpMessage, ValueError, AssertionError, EOFError, LookupError, RuntimeError) as error:
                if isinstance(error, web.HTTPException):
                    raise
                raise ApiError(400, "invalid_request", "The upload is malformed.", str(error)) from None
            if not form.filename:
                raise BadField("image", "no file was sent")
            yield form
    except OSError as error:
        if error.errno in _FULL:
            raise ApiError(507, "disk_full", "There is no room left on the server's disk.") from None
        if error.errno in _NOT_A_NAME:
            raise BadField("image", f"cannot be stored under this name: {error.strerror}") from None
        raise


async def _read(request: web.Request, form: _Form) -> None:
    left, count = request.client_max_size, 0
    async for part in await request.multipart():
        count += 1
        if count > _MOST_FIELDS:
            raise ValueError("too many fields")
        if not isinstance(part, BodyPartReader):
            raise ValueError("a form inside of the form")
        name = part.name or ""
        stored = name == "image" and part.filename is not None and not form.has_file
        text = bytearray()
        while data := await part.read_chunk(_PIECE):
            left -= len(data)
            if left < 0:
                raise too_large(request)
            if stored:
                await form.file.write(data)
            elif part.filename is None:
                text += data
                if len(text) > _LONGEST_FIELD:
                    raise BadField(name, "too long")
        if stored:
            form.filename, form.has_file = part.filename or "", True
        elif part.filename is None:
            form.fields.setdefault(name, text.decode())
    await asyncio.to_thread(form.file.finish)
