"""Where the UI's packages are. They are found, never imported: they hold files, and an import would cost the start."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

UI = "comfyui-frontend-package"
TEMPLATES = "comfyui-workflow-templates"
DOCS = "comfyui-embedded-docs"


def ui_folder() -> Path | None:
    """The files of the installed web UI."""
    return _folder("comfyui_frontend_package", "static")


def docs_folder() -> Path | None:
    """The nodes' documentation: `KSampler/en.md` and pictures."""
    return _folder("comfyui_embedded_docs", "docs")


def template_folders() -> list[Path]:
    """Every folder of template files.

    The distribution is split into packages of workflows and of pictures, and the split changes from release to
    release; a file has one name in all of them.
    """
    names = sorted(
        module.name for module in iter_modules() if module.name.startswith("comfyui_workflow_templates")
    )
    return [folder for name in names if (folder := _folder(name, "templates")) is not None]


@cache  # looking through the installed distributions takes a millisecond
def version(distribution: str) -> str | None:
    """The installed version, or None, as it was when the process first asked."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _folder(package: str, name: str) -> Path | None:
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (folder := Path(place, name)).is_dir():
            return folder
    return None
