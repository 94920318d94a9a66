"""`/userdata`: the files of a user, such as workflows. They go to and from the disk piece by piece."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from comfyk.api import ApiError, BadField, disposition, file_answer, operation, read_file, user_folder
from comfyk.folders import PathOutsideError

from comfyk_http.answer_descriptions import done, gives, sends
from comfyk_http.json_answers import json_answer
from comfyk_http.requests import ListQuery, TreeQuery, WriteQuery
from comfyk_http.userdata import UserData

T = TypeVar("T")

_NOT_A_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR, errno.ELOOP)
_NOT_FOUND = gives("There is no such file", "ErrorObject")
_TAKEN = gives("There is a file of that name, or it cannot be stored under it", "ErrorObject")


async def _files(request: web.Request) -> UserData:
    return UserData(await user_folder(request))


async def _run(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call a function of the service in a thread; its errors become answers."""
    with _errors():
        return await asyncio.to_thread(function, *arguments, **options)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (PathOutsideError, FileNotFoundError, NotADirectoryError) as error:
        message = getattr(error, "strerror", None) or str(error)
        raise ApiError(404, "not_found", message) from None
    except FileExistsError:
        raise ApiError(409, "file_exists", "File already exists") from None
    except OSError as error:
        if error.errno in _NOT_A_NAME:
            raise ApiError(404, "not_found", f"No file has this name: {error.strerror}") from None
        raise


@contextmanager
def _storing(field: str) -> Iterator[None]:
    """The name in `field` is where something is stored: one that cannot be is a conflict, not a missing file."""
    try:
        yield
    except (PathOutsideError, NotADirectoryError) as error:
        raise BadField(field, getattr(error, "strerror", None) or str(error), status=409) from None
    except OSError as error:
        if error.errno in _NOT_A_NAME:
            message = f"cannot be stored under this name: {error.strerror}"
            raise BadField(field, message, status=409) from None
        raise


@operation(
    "listUserdata",
    "The files of a directory",
    tag="userdata",
    user=True,
    answers={200: gives("Its files", "FileList"), 404: gives("There is no such directory", "ErrorObject")},
)
async def list_files(request: web.Request, query: ListQuery) -> web.Response:
    """Paths are relative to the directory; hidden files are left out. The user's folder itself is `.`."""
    if not query.dir:
        raise BadField("dir", "say which directory", status=404)
    found = await _run((await _files(request)).list, query.dir, recurse=query.recurse)
    if query.full_info:
        return json_answer([asdict(file) for file in found])
    if query.split:
        return json_answer([[file.path, *file.path.split("/")] for file in found])
    return json_answer([file.path for file in found])


@operation(
    "listUserdataV2",
    "All files and directories below a directory",
    tag="userdata",
    user=True,
    answers={200: gives("Directories first", "Tree")},
)
async def list_tree(request: web.Request, query: TreeQuery) -> web.Response:
    """Paths are relative to the user's folder. What is no directory has nothing below it."""
    files = await _files(request)
    try:
        return json_answer(await asyncio.to_thread(files.tree, query.path))
    except (PathOutsideError, OSError):
        return json_answer([])


@operation(
    "getUserdataFile",
    "A file",
    tag="userdata",
    user=True,
    answers={200: sends("Its content", "application/octet-stream", "*/*"), 404: _NOT_FOUND},
)
async def get_file(request: web.Request) -> web.StreamResponse:
    """Never shown by a browser as a page, only saved; the style sheet `user.css` works as one."""
    files = await _files(request)
    path = await _run(files.find, request.match_info["file"])
    headers = {"Cache-Control": "no-cache"}
    if path == files.root / "user.css":
        headers["Content-Disposition"] = disposition("inline", path.name)
        return file_answer(request, path, show="run", headers=headers)
    return file_answer(request, path, show="save", headers=headers)


@operation(
    "writeUserdataFile",
    "Write a file",
    tag="userdata",
    raw=("application/octet-stream", "application/json"),
    user=True,
    answers={
        200: gives("It is stored", "UserDataResponse"),
        409: _TAKEN,
    },
)
async def write_file(request: web.Request, query: WriteQuery) -> web.Response:
    """The body is the content. The file is the old one until all of the new one has come."""
    files = await _files(request)
    name = request.match_info["file"]
    with _storing("file"):
        await asyncio.to_thread(files.locate, name)
    async with read_file(request, folder=files.root) as received:
        with _errors(), _storing("file"):
            path = await asyncio.to_thread(files.write, name, received, overwrite=query.overwrite)
    return await _stored(files, path, query)


@operation(
    "deleteUserdataFile",
    "Delete a file",
    tag="userdata",
    user=True,
    answers={204: done("It is gone"), 404: _NOT_FOUND},
)
async def delete_file(request: web.Request) -> web.Response:
    """For good."""
    await _run((await _files(request)).delete, request.match_info["file"])
    return web.Response(status=204)


@operation(
    "moveUserdataFile",
    "Move or rename a file or directory",
    tag="userdata",
    user=True,
    answers={
        200: gives("Where it is now", "UserDataResponse"),
        404: _NOT_FOUND,
        409: _TAKEN,
    },
)
async def move_file(request: web.Request, query: WriteQuery) -> web.Response:
    """Directories are made as needed."""
    files = await _files(request)
    source, target = await asyncio.to_thread(_parts, files, request.match_info)
    await _run(files.locate, source)
    with _errors(), _storing("dest"):
        path = await asyncio.to_thread(files.move, source, target, overwrite=query.overwrite)
    return await _stored(files, path, query)


def _parts(files: UserData, path: Mapping[str, str]) -> tuple[str, str]:
    """What is moved, and where to: of several `/move/` in a path the first behind a file that is there counts."""
    whole = [path["file"], *path["dest"].split("/move/")]
    found = []
    for count in range(1, len(whole)):
        source, target = "/move/".join(whole[:count]), "/move/".join(whole[count:])
        try:
            place = files.locate(source)
            if place.is_file():
                return source, target
            if place.exists():
                found.append((source, target))
        except (PathOutsideError, OSError):
            continue
    return found[0] if found else (path["file"], path["dest"])


async def _stored(files: UserData, path: Path, query: WriteQuery) -> web.Response:
    info = await _run(files.info, path)
    return json_answer(asdict(info) if query.full_info else info.path)
