"""`/`, while no plugin serves a web UI there."""

from __future__ import annotations

import comfyk
from aiohttp import web

from comfyk_http.json_answers import json_answer

_ADVICE = (
    "To get the web UI, install it with pip install comfyk-frontend, and see that the plugin is not disabled: "
    "comfyk plugin list, comfyk plugin enable frontend."
)
_PAGE = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>comfyk</title>
<h1>comfyk {comfyk.__version__}</h1>
<p>The server runs without a web UI; its API is ready. {_ADVICE}</p>
</html>
"""


async def headless_page(request: web.Request) -> web.Response:
    """Say that the server runs, and how to get the web UI."""
    if "text/html" in request.headers.get("Accept", ""):
        return web.Response(text=_PAGE, content_type="text/html", headers={"Cache-Control": "no-store"})
    return json_answer({"name": "comfyk", "version": comfyk.__version__, "ui": None, "message": _ADVICE})
