"""The hooks of the frontend plugin. Without the UI's package it serves no UI, and the server runs headless."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyk import hookimpl

from comfyk_frontend import packages
from comfyk_frontend.settings import FrontendSettings

if TYPE_CHECKING:
    from comfyk.app import App
    from pydantic import BaseModel

log = logging.getLogger(__name__)


def ui_root(app: App) -> Path | None:
    """The build of the UI to serve, or None."""
    return app.settings.section("frontend", FrontendSettings).root or packages.ui_folder()


@hookimpl
def comfyk_register_settings() -> Mapping[str, type[BaseModel]]:
    return {"frontend": FrontendSettings}


@hookimpl
def comfyk_register_web_directories(app: App) -> Mapping[str, Path]:
    """What the UI's own build has under `/extensions` is listed with the packs' scripts, as ComfyUI does."""
    root = ui_root(app)
    if root is None or not (root / "extensions").is_dir():
        return {}
    return {folder.name: folder for folder in (root / "extensions").iterdir() if folder.is_dir()}


@hookimpl
def comfyk_register_routes(app: App) -> Iterable[Any]:
    from comfyk_frontend.serving import package_routes, ui_routes

    root = ui_root(app)
    if root is None:
        log.warning("there is no web UI; to get it: pip install %s", packages.UI)
    return [*package_routes(), *(ui_routes(root) if root is not None else [])]


@hookimpl
def comfyk_register_middlewares(app: App) -> Iterable[Any]:
    from comfyk_frontend.serving import ui_middleware

    root = ui_root(app)
    return [] if root is None else [ui_middleware(root)]


@hookimpl
def comfyk_system_stats(app: App) -> Mapping[str, Any]:
    """What the UI's page "About" shows."""
    names = (packages.UI, packages.TEMPLATES, packages.DOCS)
    installed = {name: packages.version(name) for name in names}
    return {
        "installed_templates_version": installed[packages.TEMPLATES],
        "comfy_package_versions": [
            {"name": name, "installed": version, "required": None} for name, version in installed.items()
        ],
    }
