"""`/settings`: what a user has set in the web UI."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web
from comfyk.api import ApiError, operation, user_folder

from comfyk_http import user_settings
from comfyk_http.answer_descriptions import done, gives
from comfyk_http.json_answers import json_answer, success
from comfyk_http.reading import read_value
from comfyk_http.requests import SettingsRequest


@operation(
    "getSettings",
    "All settings",
    tag="settings",
    user=True,
    answers={200: gives("Values by key", dict[str, Any])},
)
async def get_settings(request: web.Request) -> web.Response:
    """Only those that were ever set."""
    return json_answer(await _load(request))


@operation(
    "updateSettings", "Change some settings", tag="settings", user=True, answers={200: done("They are kept")}
)
async def update_settings(request: web.Request, body: SettingsRequest) -> web.Response:
    """Those that are not named stay as they are."""
    await _update(request, body.model_extra or {})
    return success()


@operation("getSetting", "One setting", tag="settings", user=True, answers={200: gives("Its value", Any)})
async def get_setting(request: web.Request) -> web.Response:
    """`null` when it was never set."""
    return json_answer((await _load(request)).get(request.match_info["id"]))


@operation(
    "updateSetting",
    "Change one setting",
    tag="settings",
    body=Any,
    user=True,
    answers={200: done("It is kept")},
)
async def update_setting(request: web.Request) -> web.Response:
    """The body is the value; without one that is JSON the setting stays as it is."""
    try:
        value = await read_value(request)
    except ApiError as error:
        if error.status != 400:
            raise
        return success(ignored="body")
    await _update(request, {request.match_info["id"]: value})
    return success()


async def _load(request: web.Request) -> dict[str, Any]:
    return await asyncio.to_thread(user_settings.load, await user_folder(request))


async def _update(request: web.Request, changes: dict[str, Any]) -> None:
    folder: Path = await user_folder(request)
    await asyncio.to_thread(user_settings.update, folder, changes)
