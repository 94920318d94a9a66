"""What a handler finds in the aiohttp application: `request.app[APP]` and the like."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from comfyk import App

from comfyk_http.connections import Connections
from comfyk_http.hub import Hub
from comfyk_http.job_watch import JobWatch
from comfyk_http.log_feed import LogFeed
from comfyk_http.picture_pool import PicturePool
from comfyk_http.settings import HttpSettings
from comfyk_http.users import Users

APP = web.AppKey("comfyk", App)
SETTINGS = web.AppKey("settings", HttpSettings)
CONNECTIONS = web.AppKey("connections", Connections)
HUB = web.AppKey("hub", Hub)
JOB_WATCH = web.AppKey("job_watch", JobWatch)
PICTURES = web.AppKey("pictures", PicturePool)
USERS = web.AppKey("users", Users)
LOG_FEED = web.AppKey("log_feed", LogFeed)
ROUTES = web.AppKey("routes", list[Any])
"""Every route, as `comfyk_http.routing.gather` gives them."""
STARTED = web.AppKey("started", float)
"""`time.monotonic()` when the server began to listen."""
