"""`/system_stats` and `/features`: what the server runs on, and what it can do."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import sys
from typing import Any

import comfyk
from aiohttp import web
from comfyk.app import App

from comfyk_http.answers import json_answer
from comfyk_http.keys import APP

COMFYUI_VERSION = "0.33.0"
"""The ComfyUI whose API this server speaks; clients look here for what they may use."""

_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^@\s]*@")


def queue_info(app: App) -> dict[str, Any]:
    """How many jobs are pending or running, as the `status` message and `GET /prompt` show it."""
    return {"exec_info": {"queue_remaining": app.jobs.remaining}}


def feature_flags(app: App) -> dict[str, Any]:
    """The flags of all plugins. While no plugin says otherwise there are no assets."""
    flags: dict[str, Any] = {"assets": False}
    for added in app.plugins.call("comfyk_feature_flags", app=app):
        flags.update(added)
    return flags


async def get_features(request: web.Request) -> web.Response:
    """The feature flags."""
    return json_answer(feature_flags(request.app[APP]))


async def get_system_stats(request: web.Request) -> web.Response:
    """The system, and the devices that nodes compute on."""
    # In a thread, since a plugin may have to wait for torch to be imported.
    return json_answer(await asyncio.to_thread(_system_stats, request.app[APP]))


def _system_stats(app: App) -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    system: dict[str, Any] = {
        "os": sys.platform,
        "ram_total": memory.total,
        "ram_free": memory.available,
        "comfyui_version": COMFYUI_VERSION,
        "comfyk_version": comfyk.__version__,
        "python_version": sys.version,
        "pytorch_version": "",
        "embedded_python": os.path.basename(sys.prefix) == "python_embeded",
        "argv": [_PASSWORD.sub(r"\1:***@", argument) for argument in sys.argv],
    }
    for added in app.plugins.call("comfyk_system_stats", app=app):
        system.update(added)
    devices = [device for found in app.plugins.call("comfyk_device_stats", app=app) for device in found]
    if not devices:
        devices = [
            {
                "name": platform.processor() or "cpu",
                "type": "cpu",
                "index": 0,
                "vram_total": memory.total,
                "vram_free": memory.available,
                "torch_vram_total": 0,
                "torch_vram_free": 0,
            }
        ]
    return {"system": system, "devices": devices}
