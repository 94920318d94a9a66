"""Uploads: forms with files, and bodies that are files. They go to the disk as they come, never into memory whole."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import BadHttpMessage
from comfyk.api import ApiError, BadField, Form, ReceivedFile, Watch
from comfyk.folders import PathOutsideError
from pydantic import BaseModel

from comfyk_http.errors import too_large
from comfyk_http.reading import parse

M = TypeVar("M", bound=BaseModel)

_PIECE = 256 * 1024
_LONGEST_FIELD = 64 * 1024
_MOST_FIELDS = 100
_NOT_A_NAME = (errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


class Uploads:
    """What is arriving at one server: all that is not yet whole lies on its disk."""

    def __init__(self, most: int) -> None:
        """`most` is how many bytes may."""
        self.most = most
        self.bytes = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """The part of one request, which ends with it."""
        share = Share(self)
        try:
            yield share
        finally:
            self.bytes -= share.bytes


UPLOADS = web.AppKey("uploads", Uploads)


@dataclass(slots=True)
class Share:
    """How much of what is arriving is of one request."""

    uploads: Uploads
    bytes: int = 0

    def add(self, length: int) -> None:
        """Raises ApiError (503) when more is arriving than may. A single upload always may."""
        uploads = self.uploads
        if uploads.bytes + length > uploads.most and uploads.bytes > self.bytes:
            raise ApiError(
                503,
                "too_many_uploads",
                f"Uploads of {uploads.bytes / 1024 / 1024:.0f} MB are arriving, and no more is taken at once.",
                "Try again when they have ended. http.max_arriving_mb is the limit.",
                headers={"Retry-After": "10"},
            )
        uploads.bytes += length
        self.bytes += length


@asynccontextmanager
async def form_of(
    request: web.Request, model: type[M], files: Collection[str], folder: Path, watch: Watch | None
) -> AsyncIterator[Form[M]]:
    """See `comfyk.api.read_form`."""
    if request.content_type != "multipart/form-data":
        raise ApiError(400, "invalid_request", "An upload has to be multipart/form-data.")
    if (request.content_length or 0) > request.client_max_size:
        raise too_large(request)
    with _errors_of(next(iter(files), "")), ExitStack() as stack:
        share = stack.enter_context(request.app[UPLOADS].share())
        arriving = _Arriving(request, files, folder, watch, stack, share)
        try:
            await arriving.read()
        except (BadHttpMessage, ValueError, AssertionError, EOFError, LookupError, RuntimeError) as error:
            if isinstance(error, web.HTTPException):
                raise
            raise ApiError(400, "invalid_request", "The upload is malformed.", str(error)) from None
        for name in files:
            if name not in arriving.files and _is_wanted(model, name):
                raise BadField(name, "no file was sent")
        names = {name: file.name for name, file in arriving.files.items()}
        yield Form(parse(model, {**arriving.fields, **names}), arriving.files)


def _is_wanted(model: type[BaseModel], file: str) -> bool:
    known = model.model_fields.get(file)
    return known is None or known.is_required()


@asynccontextmanager
async def file_of(request: web.Request, folder: Path, watch: Watch | None) -> AsyncIterator[ReceivedFile]:
    """See `comfyk.api.read_file`."""
    left = request.client_max_size
    if (request.content_length or 0) > left:
        raise too_large(request)
    with (
        _errors_of(""),
        request.app[UPLOADS].share() as share,
        await asyncio.to_thread(ReceivedFile, folder) as file,
    ):
        async for data in request.content.iter_chunked(_PIECE):
            share.add(len(data))
            left -= len(data)
            if left < 0:
                raise too_large(request)
            if watch is not None:
                watch("", data)
            await file.write(data)
        await asyncio.to_thread(file.finish)
        yield file


@contextmanager
def _errors_of(field: str) -> Iterator[None]:
    """What goes wrong with the disk, or with the name in `field`, becomes an answer."""
    try:
        yield
    except PathOutsideError as error:
        raise BadField(field, str(error)) from None
    except OSError as error:
        if error.errno in _NOT_A_NAME:
            raise BadField(field, f"cannot be stored under this name: {error.strerror}") from None
        raise


@dataclass(slots=True)
class _Arriving:
    """A form on its way."""

    request: web.Request
    wanted: Collection[str]
    folder: Path
    watch: Watch | None
    stack: ExitStack
    share: Share
    files: dict[str, ReceivedFile] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    _left: int = 0

    async def read(self) -> None:
        """Raises ApiError, OSError, and whatever aiohttp raises for what is no form."""
        self._left = self.request.client_max_size
        count = 0
        async for part in await self.request.multipart():
            count += 1
            if count > _MOST_FIELDS:
                raise ValueError("too many fields")
            if not isinstance(part, BodyPartReader):
                raise ValueError("a form inside of the form")
            if part.filename is None:
                await self._read_text(part)
            elif part.filename and (name := part.name or "") in self.wanted and name not in self.files:
                await self._read_file(part, name, part.filename)
            else:
                await self._pass_over(part)

    async def _read_text(self, part: BodyPartReader) -> None:
        name, text = part.name or "", bytearray()
        async for data in self._pieces(part):
            text += data
            if len(text) > _LONGEST_FIELD:
                raise BadField(name, "too long")
        self.fields.setdefault(name, text.decode())

    async def _read_file(self, part: BodyPartReader, name: str, filename: str) -> None:
        file = self.stack.enter_context(await asyncio.to_thread(ReceivedFile, self.folder, filename))
        async for data in self._pieces(part):
            self.share.add(len(data))
            if self.watch is not None:
                self.watch(name, data)
            await file.write(data)
        await asyncio.to_thread(file.finish)
        self.files[name] = file

    async def _pass_over(self, part: BodyPartReader) -> None:
        async for _ in self._pieces(part):
            pass

    async def _pieces(self, part: BodyPartReader) -> AsyncIterator[bytes]:
        while data := await part.read_chunk(_PIECE):
            self._left -= len(data)
            if self._left < 0:
                raise too_large(self.request)
            yield data
