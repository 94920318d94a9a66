"""What a handler does with its request beside reading a query and a body: who asks, uploads, files as answers.

The kernel knows no web server. The plugin that serves HTTP says with `serve_requests` how it is done for the requests
of its application, and everybody's handlers, its own too, go through the functions here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from pydantic import BaseModel

    from comfyk.api.received import Form, ReceivedFile

M = TypeVar("M", bound="BaseModel")

Watch = Callable[[str, bytes], None]
"""Is given each piece of a file as it comes, with the file's field: to hash it, or to look at its beginning."""

Show = Literal["safe", "save", "run"]
"""What a browser may do with a file that is an answer.

`safe`: show it, unless it is of a type that could run code: that is saved. `save`: only save it. `run`: all; for files
that belong to a program, never for what users or clients have put somewhere.
"""

_ETAG = re.compile(r'(?:W/)?"([^"]*)"')


class RequestServices(Protocol):
    """What the plugin that serves HTTP does for handlers; the functions of this module say what each is.

    A `request` is an `aiohttp.web.Request`, an answer an `aiohttp.web.StreamResponse`.
    """

    def user_of(self, request: Any) -> str: ...

    def scope_of(self, request: Any) -> str | None: ...

    async def user_folder(self, request: Any) -> Path: ...

    async def read_json(self, request: Any, *, optional: bool) -> Any: ...

    def read_form(
        self,
        request: Any,
        model: type[M],
        *,
        files: Collection[str],
        folder: Path | None,
        watch: Watch | None,
    ) -> AbstractAsyncContextManager[Form[M]]: ...

    def read_file(
        self, request: Any, *, folder: Path | None, watch: Watch | None
    ) -> AbstractAsyncContextManager[ReceivedFile]: ...

    def file_answer(
        self,
        request: Any,
        path: Path,
        *,
        name: str,
        show: Show,
        content_type: str,
        etag: str,
        packed: bool,
        headers: Mapping[str, str] | None,
    ) -> Any: ...


_services: WeakKeyDictionary[Any, RequestServices] = WeakKeyDictionary()


def serve_requests(application: Any, services: RequestServices) -> None:
    """For the plugin that serves HTTP: these services are for the requests whose `app` this is."""
    _services[application] = services


def _of(request: Any) -> RequestServices:
    try:
        return _services[request.app]
    except KeyError:
        raise RuntimeError("this is no request of a comfyk server") from None


def user_of(request: Any) -> str:
    """Whose request it is: `default`, but in multi-user mode the one whom the header `Comfy-User` names.

    Raises ApiError (400, 401) for a name that is no user's.
    """
    return _of(request).user_of(request)


def scope_of(request: Any) -> str | None:
    """Whose jobs and other things the request may see: a user, or None for everybody's.

    None unless the server is in multi-user mode. It is what `app.jobs.listing` and the like take as `user`. Raises as
    `user_of`.
    """
    return _of(request).scope_of(request)


async def user_folder(request: Any) -> Path:
    """The folder of the user whose request it is; it need not exist yet.

    Raises ApiError (401) for a user that there is not.
    """
    return await _of(request).user_folder(request)


async def read_json(request: Any, *, optional: bool = False) -> Any:
    """The body as JSON of any kind, whatever its content type; with `optional` no body at all is None.

    Raises ApiError (400, 413). Most handlers need not call it: they have a parameter `body`.
    """
    return await _of(request).read_json(request, optional=optional)


def read_form(
    request: Any,
    model: type[M],
    *,
    files: Collection[str] = (),
    folder: Path | None = None,
    watch: Watch | None = None,
) -> AbstractAsyncContextManager[Form[M]]:
    """Receive a `multipart/form-data` body, however large.

    `async with read_form(request, Fields, files=["image"]) as form:` has `form.fields` and `form.files["image"]`.

    `files` are the fields that are files; each goes to the disk as it comes, to a hidden file in `folder` (the input
    folder if none is given; best one on the disk where the file will stay). Of several of one name the first counts. A
    file that the model has as a required field, or not at all, has to be sent. All other fields are text.

    What was not placed somewhere is gone when the block ends. Raises ApiError, also for what goes wrong inside of the
    block: 400 for what is no form, a field that is not what the model says, or a name that no file can have; 413 for
    more than the server takes, 507 for a full disk.
    """
    return _of(request).read_form(request, model, files=files, folder=folder, watch=watch)


def read_file(
    request: Any, *, folder: Path | None = None, watch: Watch | None = None
) -> AbstractAsyncContextManager[ReceivedFile]:
    """Receive a body that is a file as it is, as `read_form` does; to `watch` its field is an empty name.

    Raises ApiError (400, 413, 507).
    """
    return _of(request).read_file(request, folder=folder, watch=watch)


def file_answer(
    request: Any,
    path: Path,
    *,
    name: str = "",
    show: Show = "safe",
    content_type: str = "",
    etag: str = "",
    packed: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Any:
    """Answer with a file: piece by piece, with ranges, validators (304, 412) and a name to save it under.

    `name` is the file's for clients, the path's by default; the content type follows from it. `etag` (without quotes)
    is the entity tag, such as a hash of the content; without one it is made of the file's time and size. With `packed`
    a file `path.gz` beside it may be sent in its place to clients that take gzip: for files of a program only. A file
    that is gone is answered with 404.
    """
    return _of(request).file_answer(
        request,
        path,
        name=name or path.name,
        show=show,
        content_type=content_type,
        etag=etag,
        packed=packed,
        headers=headers,
    )


def client_has(request: Any, tag: str) -> bool:
    """Whether the client says (`If-None-Match`) that it holds what has this entity tag (without quotes)."""
    held = request.headers.get("If-None-Match")
    return held is not None and (held.strip() == "*" or tag in _ETAG.findall(held))
