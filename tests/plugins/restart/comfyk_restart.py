"""`POST /restart` restarts the server in place: clients come back, running jobs run again, the queue is intact."""

from __future__ import annotations

import os

from aiohttp import web
from comfyk import current_app, hookimpl
from comfyk.api import Answer, operation
from pydantic import BaseModel


class Restart(BaseModel):
    """Why, for the log."""

    reason: str = "asked for over HTTP"


class Restarting(BaseModel):
    """The server's process; on POSIX it is the same afterwards."""

    pid: int


@operation(
    "restartServer", "Restart the server", tag="system", answers={202: Answer("It restarts", Restarting)}
)
async def restart(request: web.Request, body: Restart) -> web.Response:
    """The answer comes first; running jobs are interrupted and run again."""
    current_app().request_stop(restart=True, reason=body.reason)
    return web.json_response({"pid": os.getpid()}, status=202)


@hookimpl
def comfyk_register_routes() -> list[web.RouteDef]:
    return [web.post("/restart", restart)]
