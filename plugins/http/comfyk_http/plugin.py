"""The hooks of the http plugin. aiohttp is imported when the server begins to serve, not before."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from comfyk import hookimpl
from comfyk.doctor import Finding

from comfyk_http.settings import HttpSettings

if TYPE_CHECKING:
    import click
    from comfyk import App
    from comfyk.settings import Settings
    from pydantic import BaseModel

    from comfyk_http.server import HttpServer

_servers: WeakKeyDictionary[App, HttpServer] = WeakKeyDictionary()


def server_of(app: App) -> HttpServer:
    """The server that serves this app. Raises KeyError when none does."""
    return _servers[app]


@hookimpl
def comfyk_register_settings() -> Mapping[str, type[BaseModel]]:
    return {"http": HttpSettings}


@hookimpl
def comfyk_register_commands(cli: click.Group) -> None:
    from comfyk_http import commands

    cli.add_command(commands.token)
    cli.add_command(commands.openapi)


@hookimpl
def comfyk_create_event_loop(settings: Settings) -> AbstractEventLoop | None:
    from comfyk_http.event_loop import new_event_loop

    return new_event_loop(settings.section("http", HttpSettings).event_loop)


@hookimpl(tryfirst=True)
def comfyk_register_nodes(app: App) -> None:
    # Packs are loaded next: what they have to say belongs into the web UI's log.
    from comfyk_http.server_log import SERVER_LOG

    SERVER_LOG.start()


@hookimpl
async def comfyk_serve(app: App) -> list[str]:
    from comfyk_http.browser import open_browser
    from comfyk_http.server import HttpServer
    from comfyk_http.server_log import SERVER_LOG

    SERVER_LOG.watch_prints()
    settings = app.settings.section("http", HttpSettings)
    server = HttpServer(app, settings)
    await server.start()
    _servers[app] = server
    if server.has_ui:
        # In the words that ComfyUI's launchers wait for.
        print(f"To see the GUI go to: {server.url}", flush=True)
    else:
        print(f"The API is at: {server.url}", flush=True)
    if server.has_ui and settings.auto_launch:
        open_browser(server.url)
    return server.urls


@hookimpl
async def comfyk_shutdown(app: App) -> None:
    from comfyk_http.server_log import SERVER_LOG

    server = _servers.pop(app, None)
    if server is not None:
        await server.stop()
    SERVER_LOG.unwatch_prints()
    SERVER_LOG.stop()


@hookimpl(trylast=True)  # so that another plugin can serve a path in place of ours, such as `/`
def comfyk_register_routes(app: App) -> Iterable[Any]:
    from comfyk_http.routes import all_routes

    return all_routes()


@hookimpl
def comfyk_feature_flags(app: App) -> Mapping[str, Any]:
    return {
        "supports_preview_metadata": True,
        "node_replacements": True,
        "max_upload_size": app.settings.section("http", HttpSettings).max_upload_size,
    }


@hookimpl
def comfyk_doctor(app: App) -> Iterable[Finding]:
    from comfyk_http.doctor import findings

    return findings(app.settings.section("http", HttpSettings), app.folders.user)
