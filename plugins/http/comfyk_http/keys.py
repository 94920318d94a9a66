"""What a handler finds in the aiohttp application: `request.app[APP]` and the like."""

from __future__ import annotations

from aiohttp import web
from comfyk.app import App

from comfyk_http.hub import Hub
from comfyk_http.settings import HttpSettings

APP = web.AppKey("comfyk", App)
SETTINGS = web.AppKey("settings", HttpSettings)
HUB = web.AppKey("hub", Hub)
