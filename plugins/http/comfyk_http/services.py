"""What this plugin does for everybody's handlers, its own too: the other end of `comfyk.api`."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.typedefs import Middleware
from comfyk import App
from comfyk.api import ApiError, BadField, Form, ReceivedFile, Show, Watch
from pydantic import BaseModel

from comfyk_http.authentication import token_of
from comfyk_http.bodies import BODIES
from comfyk_http.errors import Handler
from comfyk_http.file_answers import answer_with_file
from comfyk_http.forms import file_of, form_of
from comfyk_http.reading import read_value
from comfyk_http.users import DEFAULT, SYSTEM_PREFIX, UnknownUserError, Users

M = TypeVar("M", bound=BaseModel)

USER_HEADER = "Comfy-User"


class Services:
    """`comfyk.api.RequestServices` for one application."""

    def __init__(self, app: App, users: Users) -> None:
        self._app = app
        self._users = users

    def user_of(self, request: web.Request) -> str:
        if not self._users.multi_user:
            return DEFAULT
        user = request.headers.get(USER_HEADER)
        token = token_of(request)
        if token is not None and token.user is not None:
            if user not in (None, "", token.user):
                raise ApiError(
                    403,
                    "not_your_user",
                    f"The token {token.name!r} is of another user.",
                    f"Leave the header {USER_HEADER} out, or send that user's.",
                )
            user = token.user
        user = DEFAULT if user is None else user
        if not user.isprintable() or len(user) > 255:
            raise BadField(USER_HEADER, "not the name of a user")
        if user.startswith(SYSTEM_PREFIX) or not self._users.knows(user):
            raise _unknown(user)
        return user

    def scope_of(self, request: web.Request) -> str | None:
        return self.user_of(request) if self._users.multi_user else None

    async def user_folder(self, request: web.Request) -> Path:
        user = self.user_of(request)
        try:
            return await asyncio.to_thread(self._users.folder, user)
        except UnknownUserError:
            raise _unknown(user) from None

    async def read_json(self, request: web.Request, *, optional: bool) -> Any:
        if optional and not (await request.app[BODIES].read(request)).strip():
            return None
        return await read_value(request)

    def read_form(
        self,
        request: web.Request,
        model: type[M],
        *,
        files: Collection[str],
        folder: Path | None,
        watch: Watch | None,
    ) -> AbstractAsyncContextManager[Form[M]]:
        return form_of(request, model, files, folder or self._app.folders.input, watch)

    def read_file(
        self, request: web.Request, *, folder: Path | None, watch: Watch | None
    ) -> AbstractAsyncContextManager[ReceivedFile]:
        return file_of(request, folder or self._app.folders.input, watch)

    def file_answer(
        self,
        request: web.Request,
        path: Path,
        *,
        name: str,
        show: Show,
        content_type: str,
        etag: str,
        packed: bool,
        headers: Mapping[str, str] | None,
    ) -> web.StreamResponse:
        return answer_with_file(
            request,
            path,
            name=name,
            show=show,
            content_type=content_type,
            etag=etag,
            packed=packed,
            headers=headers,
        )


def names_user(request: web.Request) -> bool:
    """Whether the request says whose it is, in its header or by its token."""
    token = token_of(request)
    return bool(request.headers.get(USER_HEADER)) or (token is not None and token.user is not None)


def known_users(services: Services) -> Middleware:
    """The middleware that refuses whoever names a user that there is not, whatever is asked for."""

    @web.middleware
    async def known(request: web.Request, handler: Handler) -> web.StreamResponse:
        if names_user(request):
            services.user_of(request)
        return await handler(request)

    return known


def _unknown(user: str) -> ApiError:
    return ApiError(
        401,
        "unknown_user",
        f"Unknown user: {user}",
        f"Say in the header {USER_HEADER} which user you are, by an id that GET /users lists.",
        extra_info={"field": USER_HEADER},
    )
