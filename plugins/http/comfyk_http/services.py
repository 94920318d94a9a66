"""What this plugin does for everybody's handlers, its own too: the other end of `comfyk.api`."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from comfyk import App
from comfyk.api import ApiError, BadField, Form, ReceivedFile, Show, Watch
from pydantic import BaseModel

from comfyk_http.file_answers import answer_with_file
from comfyk_http.forms import file_of, form_of
from comfyk_http.reading import read_value
from comfyk_http.users import DEFAULT, SYSTEM_PREFIX, UnknownUserError, Users

M = TypeVar("M", bound=BaseModel)


class Services:
    """`comfyk.api.RequestServices` for one application."""

    def __init__(self, app: App, users: Users) -> None:
        self._app = app
        self._users = users

    def user_of(self, request: web.Request) -> str:
        if not self._users.multi_user:
            return DEFAULT
        user = request.headers.get("Comfy-User", DEFAULT)
        if not user.isprintable() or len(user) > 255:
            raise BadField("Comfy-User", "not the name of a user")
        if user.startswith(SYSTEM_PREFIX):
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
        if optional and not (await request.read()).strip():
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


def _unknown(user: str) -> ApiError:
    return ApiError(401, "unknown_user", f"Unknown user: {user}", extra_info={"field": "Comfy-User"})
