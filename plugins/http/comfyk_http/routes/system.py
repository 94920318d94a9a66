"""`/system_stats` and `/features`: what the server runs on, and what it can do."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import sys
import time
from typing import Any

import comfyk
from aiohttp import web
from comfyk import App
from comfyk.api import operation
from comfyk.wire import dumps

from comfyk_http.answer_descriptions import gives
from comfyk_http.json_answers import json_answer
from comfyk_http.keys import APP, STARTED
from comfyk_http.merging import merged

COMFYUI_VERSION = "0.33.0"
"""The ComfyUI whose API this server speaks; clients look here for what they may use."""

_MB = 1024 * 1024
_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^@\s]*@")


def queue_info(app: App) -> dict[str, Any]:
    """How many jobs are pending or running, as the first `status` message and `GET /prompt` show it; and `paused`."""
    info: dict[str, Any] = {"queue_remaining": app.jobs.remaining}
    if app.jobs.paused:
        info["paused"] = True
    return {"exec_info": info}


def feature_flags(app: App) -> dict[str, Any]:
    """The flags of all plugins. While no plugin says otherwise there are no assets."""
    flags: dict[str, Any] = {"assets": False}
    hook = "comfyk_feature_flags"
    for plugin, added in app.hook.each(hook):
        try:
            dumps(added)
        except ValueError as error:  # it contains itself, perhaps
            app.plugins.record(plugin, hook, error)
            continue
        flags = merged(flags, added)
    return flags


@operation(
    "getFeatures",
    "What the server can do",
    tag="system",
    answers={200: gives("Flags of all plugins", "Features")},
)
async def get_features(request: web.Request) -> web.Response:
    """WebSocket clients that announce flags are told the same."""
    return json_answer(feature_flags(request.app[APP]))


@operation(
    "getSystemStats",
    "What the server runs on",
    tag="system",
    answers={200: gives("The system and its devices", "SystemStats")},
)
async def get_system_stats(request: web.Request) -> web.Response:
    """Bytes, but for `gpus` and `ram`, which are in megabytes."""
    # In a thread, since a plugin may have to wait for torch to be imported.
    stats = await asyncio.to_thread(_system_stats, request.app[APP])
    return json_answer({**stats, "uptime": time.monotonic() - request.app[STARTED]})


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
    for added in app.hook.comfyk_system_stats():
        system.update(added)
    system = {name: value for name, value in system.items() if value is not None}
    # To torch a CPU has no index; to the API every device has one.
    devices = [
        {**device, "index": device.get("index") or 0}
        for found in app.hook.comfyk_device_stats()
        for device in found
    ]
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
    return {
        "system": system,
        "devices": devices,
        "gpus": [_gpu(device) for device in devices if device.get("type") != "cpu"],
        "ram": {
            "total": memory.total // _MB,
            "used": (memory.total - memory.available) // _MB,
            "available": memory.available // _MB,
        },
    }


def _gpu(device: dict[str, Any]) -> dict[str, Any]:
    total, free = device.get("vram_total", 0), device.get("vram_free", 0)
    return {
        "name": device.get("name", ""),
        "vram_total": total // _MB,
        "vram_free": free // _MB,
        "vram_used": (total - free) // _MB,
    }
