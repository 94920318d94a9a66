"""Errors as clients see them: always JSON, in the shape that the path's clients know, never with a traceback."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage
from comfyk.api import ApiError, ErrorShape, as_object, operation_of
from comfyk.foreign_code import is_ours
from comfyk.jobs import StoreError
from comfyk.wire import dumps

from comfyk_http.keys import APP
from comfyk_http.machine_paths import without_folders, without_paths

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def shape_of(handler: Any) -> ErrorShape:
    """In which shape a handler's errors are answered."""
    operation = operation_of(handler)
    return as_object if operation is None else operation.error_shape


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware: whatever goes wrong inside becomes a JSON answer."""
    try:
        return await handler(request)
    except ApiError as error:
        return _answer(request, error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _answer(request, _from_http(request, error))
    except StoreError as error:
        log.error("%s %s: %s", request.method, request.path, error)
        return _answer(request, ApiError(503, "storage_error", without_paths(str(error))))
    except (ConnectionError, web.RequestPayloadError, BadHttpMessage) as error:
        log.debug("%s %s: %s", request.method, request.path, error)
        return _answer(
            request, ApiError(400, "incomplete_request", "The request did not come whole.", str(error))
        )
    except OSError as error:
        refused = of_system(error)
        if refused is None:
            log.exception("%s %s failed", request.method, request.path)
            refused = ApiError(500, "internal_error", "The server failed to answer; its log says why.")
        else:
            log.error("%s %s: %s", request.method, request.path, error)
        return _answer(request, refused)
    except MemoryError as error:
        log.error("%s %s: there is no memory left for it %s", request.method, request.path, error)
        return _answer(request, ApiError(503, "no_memory", "The server has no memory left for this."))
    except BaseException as error:  # of a plugin's handler, perhaps: some would end the server
        if is_ours(error):
            raise
        log.exception("%s %s failed", request.method, request.path)
        return _answer(
            request, ApiError(500, "internal_error", "The server failed to answer; its log says why.")
        )


def _answer(request: web.Request, error: ApiError) -> web.Response:
    shape = shape_of(request.match_info.handler)
    folders = request.app[APP].folders
    error.message = without_folders(error.message, folders)
    error.details = without_folders(error.details, folders)
    try:
        body = dumps(shape.write(error))
    except Exception:  # a plugin's shape: what was wrong has to be told all the same
        log.exception(
            "%s %s: the error cannot be written in the operation's shape", request.method, request.path
        )
        shape = as_object
        body = dumps(shape.write(error))
    return web.Response(
        status=error.status, body=body, content_type=shape.content_type, headers=error.headers
    )


def _from_http(request: web.Request, error: web.HTTPException) -> ApiError:
    headers = {name: value for name, value in error.headers.items() if name in ("Allow", "Content-Range")}
    match error.status:
        case 404:
            return ApiError(404, "not_found", f"There is nothing at {request.path}.")
        case 405:
            message = f"{request.path} does not take {request.method}."
            return ApiError(405, "method_not_allowed", message, headers=headers)
        case 413:
            return too_large(request)
    name = (error.reason or "error").lower().replace(" ", "_")
    return ApiError(error.status, name, error.text or error.reason or name, headers=headers)


def of_system(error: OSError) -> ApiError | None:
    """What the machine has no more of, as an answer; None for an error of another kind."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return ApiError(507, "disk_full", "There is no room left on the server's disk.")
        case errno.EROFS:
            return ApiError(507, "disk_read_only", "The server's disk cannot be written to.")
        case errno.EFBIG:
            return ApiError(507, "file_too_large", "The server's disk takes no file of this size.")
        case errno.EMFILE | errno.ENFILE:
            return ApiError(
                503,
                "too_many_files",
                "The server has as many files open as the system lets it.",
                "Try again in a moment.",
                headers={"Retry-After": "5"},
            )
        case errno.ENOMEM:
            return ApiError(503, "no_memory", "The server has no memory left for this; try again later.")
    return None


def too_large(request: web.Request) -> ApiError:
    """413, with the limit and the setting that moves it."""
    limit = request.client_max_size
    message = f"The request is larger than the {limit / 1024 / 1024:g} MB that this server takes."
    return ApiError(
        413, "too_large", message, "Raise the limit with --max-upload-size (http.max_upload_size_mb)."
    )
