"""`/users`: who there is, in multi-user mode."""

from __future__ import annotations

import asyncio

from aiohttp import web
from comfyk.api import ApiError, BadField, as_text, operation

from comfyk_http.answer_descriptions import gives
from comfyk_http.json_answers import json_answer
from comfyk_http.keys import USERS
from comfyk_http.requests import NewUser
from comfyk_http.users import DEFAULT, UserError


@operation(
    "getUsers",
    "The users",
    tag="user",
    user=True,
    answers={200: gives("Where settings are kept, and for whom", "UserInfo")},
)
async def get_users(request: web.Request) -> web.Response:
    """`users` in multi-user mode, otherwise `migrated`."""
    users = request.app[USERS]
    if users.multi_user:
        return json_answer({"storage": "server", "users": await asyncio.to_thread(users.names)})
    return json_answer({"storage": "server", "migrated": users.folder(DEFAULT).is_dir()})


@operation(
    "createUser",
    "Make a user",
    tag="user",
    user=True,
    errors=as_text,
    answers={200: gives("The user's id", str), 400: gives("The name is taken or cannot be one", "ErrorText")},
)
async def create_user(request: web.Request, body: NewUser) -> web.Response:
    """Only in multi-user mode; otherwise everybody is `default`."""
    users = request.app[USERS]
    if not users.multi_user:
        raise ApiError(400, "single_user", "The server was not started with --multi-user.")
    try:
        return json_answer(await asyncio.to_thread(users.add, body.username))
    except UserError as error:
        raise BadField("username", str(error)) from None
