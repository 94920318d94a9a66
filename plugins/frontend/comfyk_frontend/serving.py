"""The routes: `/` and every file of the UI, `/templates/...` and `/docs/...`.

The UI's files have no route of their own. Where no route answers, its folder is looked into, so that no file of it
stands in the way of an operation (nor turns its 405 into a 404), whatever a build brings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path

from aiohttp import web
from comfyk import App
from comfyk.api import ApiError, client_has

from comfyk_frontend import help, packages, starters
from comfyk_frontend.catalog import INDEX, Catalog
from comfyk_frontend.page import Page
from comfyk_frontend.settings import FrontendSettings
from comfyk_frontend.ui_files import answer, find

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def ui_middleware(app: App, root: Path) -> Callable[[web.Request, _Handler], Awaitable[web.StreamResponse]]:
    """Answers with the files under `root` what no route answers."""
    page = Page(app, root / "index.html")

    @web.middleware
    async def serve_ui(request: web.Request, handler: _Handler) -> web.StreamResponse:
        path = request.path
        missing = request.match_info.http_exception
        # The UI's scripts are in /assets, where the asset operations are too; no name of an asset has a dot.
        script = path.startswith("/assets/") and "." in path
        if request.method not in ("GET", "HEAD") or not (
            script or (missing is not None and missing.status == 404)
        ):
            return await handler(request)
        name = path.removeprefix("/")
        if name == "index.html":
            return await page.answer(request)
        file = await asyncio.to_thread(find, (root,), name)
        if file is not None:
            return answer(request, file, name)
        if script:
            raise ApiError(404, "not_found", f"There is nothing at {path}.")
        return await handler(request)

    return serve_ui


def ui_routes(app: App, root: Path) -> list[web.RouteDef]:
    """`/`, which http serves too as long as nobody else does, and `/help`."""
    page = Page(app, root / "index.html")

    async def index(request: web.Request) -> web.StreamResponse:
        return await page.answer(request)

    async def show_help(request: web.Request) -> web.StreamResponse:
        return help.page(request, app.settings.section("frontend", FrontendSettings))

    return [web.get("/", index), web.get(help.PATH, show_help)]


def package_routes(app: App) -> list[web.RouteDef]:
    """The files that the UI gets from other packages, and the starters among the templates."""
    catalog = Catalog(app, _template_folders)

    async def template(request: web.Request) -> web.StreamResponse:
        name = request.match_info["path"]
        if INDEX.fullmatch(name) and (document := await catalog.document(name)) is not None:
            headers = {"Cache-Control": "no-cache", "ETag": f'"{document.tag}"'}
            if client_has(request, document.tag):
                return web.Response(status=304, headers=headers)
            return web.Response(
                body=document.body, content_type="application/json", charset="utf-8", headers=headers
            )
        return await _from(request, _all_template_folders, packages.TEMPLATES)

    return [
        web.get("/templates/{path:.+}", template),
        web.get("/docs/{path:.+}", _documentation),
    ]


def _all_template_folders() -> list[Path]:
    return [starters.FOLDER, *_template_folders()]


@cache
def _template_folders() -> list[Path]:
    return packages.template_folders()


@cache
def _docs_folders() -> list[Path]:
    folder = packages.docs_folder()
    return [] if folder is None else [folder]


async def _documentation(request: web.Request) -> web.StreamResponse:
    return await _from(request, _docs_folders, packages.DOCS)


async def _from(
    request: web.Request, folders: Callable[[], list[Path]], distribution: str
) -> web.StreamResponse:
    name = request.match_info["path"]
    file = await asyncio.to_thread(lambda: find(folders(), name))
    if file is not None:
        return answer(request, file, name)
    if folders() in ([], [starters.FOLDER]):
        raise ApiError(
            404,
            "not_installed",
            f"{distribution} is not installed, so there is nothing at {request.path}.",
            f"Install it where comfyk is installed: pip install {distribution}",
        )
    raise ApiError(404, "not_found", f"There is nothing at {request.path}.")
