"""The hooks of the frontend plugin. Without the UI's package it serves no UI, and the server runs headless."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyk import hookimpl
from comfyk.doctor import Finding

from comfyk_frontend import help, hookspecs, packages, starters
from comfyk_frontend.settings import FrontendSettings

if TYPE_CHECKING:
    from comfyk import App
    from pydantic import BaseModel

log = logging.getLogger(__name__)


def ui_root(app: App) -> Path | None:
    """The build of the UI to serve, or None."""
    return _settings(app).root or packages.ui_folder()


def _settings(app: App) -> FrontendSettings:
    return app.settings.section("frontend", FrontendSettings)


@hookimpl
def comfyk_add_hooks() -> Any:
    return hookspecs


@hookimpl
def comfyk_register_settings() -> Mapping[str, type[BaseModel]]:
    return {"frontend": FrontendSettings}


@hookimpl
def comfyk_register_web_directories(app: App) -> Mapping[str, Path]:
    """What the UI's own build has under `/extensions` is listed with the packs' scripts, as ComfyUI does."""
    root = ui_root(app)
    if root is None:
        return {}
    own = {"comfyk": Path(__file__).parent / "extension"}
    if not (root / "extensions").is_dir():
        return own
    return own | {folder.name: folder for folder in (root / "extensions").iterdir() if folder.is_dir()}


@hookimpl
def comfyk_register_routes(app: App) -> Iterable[Any]:
    from comfyk_frontend.serving import package_routes, ui_routes

    root = ui_root(app)
    if root is None:
        log.warning("there is no web UI; to get it: pip install %s", packages.UI)
    return [*package_routes(app), *(ui_routes(app, root) if root is not None else [])]


@hookimpl
async def comfyk_startup(app: App) -> None:
    if _settings(app).starters:
        await asyncio.to_thread(starters.bring_pictures, app)


@hookimpl
def comfyk_page_scripts(app: App) -> Iterable[str]:
    """What opens a workflow in a browser that has none."""
    name = starters.first(app) if _settings(app).starters else None
    return [] if name is None else [f"/templates/first_visit.js?template={name}"]


@hookimpl
def comfyk_register_middlewares(app: App) -> Iterable[Any]:
    from comfyk_frontend.serving import ui_middleware

    root = ui_root(app)
    return [] if root is None else [ui_middleware(app, root)]


@hookimpl
def comfyk_system_stats(app: App) -> Mapping[str, Any]:
    """What the UI's page "About" shows."""
    names = (packages.UI, packages.TEMPLATES, packages.DOCS)
    installed = {name: packages.version(name) for name in names}
    return {
        "comfyk_links": help.links(_settings(app)),
        "installed_templates_version": installed[packages.TEMPLATES],
        "comfy_package_versions": [
            {"name": name, "installed": version, "required": None} for name, version in installed.items()
        ],
    }


@hookimpl
def comfyk_snapshot() -> Mapping[str, Any]:
    """Which web UI it was: nothing of it can be put back but by installing these versions."""
    installed = {name: packages.version(name) for name in (packages.UI, packages.TEMPLATES, packages.DOCS)}
    return {"packages": {name: version for name, version in installed.items() if version is not None}}


@hookimpl
def comfyk_doctor(app: App) -> Iterable[Finding]:
    """What of the web UI is not there."""
    if ui_root(app) is None:
        yield Finding(
            "warning", "There is no web UI: the server runs headless.", f"pip install {packages.UI}"
        )
    for name, found, lacks in (
        (packages.TEMPLATES, bool(packages.template_folders()), "workflow templates"),
        (packages.DOCS, packages.docs_folder() is not None, "documentation of nodes"),
    ):
        if not found:
            yield Finding("info", f"The web UI shows no {lacks}.", f"pip install {name}")
