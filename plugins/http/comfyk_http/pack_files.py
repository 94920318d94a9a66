"""What packs bring beside nodes: example workflows, translations and subgraph blueprints. All of it may block."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyk.folders import PathOutsideError, entries_of, is_file, is_folder, resolve_inside
from comfyk.packs import PackInfo, pack_source

from comfyk_http.merging import merged

log = logging.getLogger(__name__)

EXAMPLE_FOLDERS = ("example_workflows", "example", "examples", "workflow", "workflows")
"""Where a pack's example workflows may be."""
_LOCALE_PARTS = ("nodeDefs", "commands", "settings")
"""Files of a translation that become a key of it; `main.json` is the translation itself."""


@dataclass(slots=True)
class Blueprint:
    """A subgraph to start from."""

    id: str
    source: str
    """`custom_node` or `templates`."""
    name: str
    node_pack: str
    path: Path

    def info(self) -> dict[str, Any]:
        """As it is listed."""
        return {"source": self.source, "name": self.name, "info": {"node_pack": self.node_pack}}


def folders_of(packs: Iterable[PackInfo]) -> list[Path]:
    """The folders of the packs that are switched on; one that failed to load may still have examples."""
    return [pack.path for pack in packs if pack.state != "disabled" and is_folder(pack.path)]


def templates(packs: Iterable[Path]) -> dict[str, list[str]]:
    """The example workflows, without `.json`, by pack; a pack without any is left out."""
    found: dict[str, list[str]] = {}
    for pack in packs:
        for folder in EXAMPLE_FOLDERS:
            for file in _json_files(pack, folder):
                found.setdefault(pack.name, []).append(file.stem)
    return found


def template_file(packs: Iterable[Path], pack_name: str, file: str) -> Path | None:
    """A file among a pack's examples, or None; both names come from outside."""
    for pack in packs:
        if pack.name != pack_name:
            continue
        for folder in EXAMPLE_FOLDERS:
            try:
                path = resolve_inside(resolve_inside(pack, folder), file)
            except PathOutsideError:
                return None
            if is_file(path):
                return path
    return None


def translations(packs: Iterable[Path]) -> dict[str, Any]:
    """Language -> what the packs say in it; packs add to each other."""
    found: dict[str, Any] = {}
    for pack in packs:
        locales = pack / "locales"
        for entry in sorted(entries_of(locales), key=lambda entry: entry.name):
            if not is_folder(entry):
                continue
            folder = Path(entry.path)
            said = _read_object(folder / "main.json")
            for part in _LOCALE_PARTS:
                if keys := _read_object(folder / f"{part}.json"):
                    said[part] = keys
            if said:
                found[folder.name] = merged(found.get(folder.name, {}), said)
    return found


def blueprints(packs: Iterable[Path], folders: Iterable[Path]) -> dict[str, Blueprint]:
    """The blueprints of packs, and those in other folders, by id."""
    found: dict[str, Blueprint] = {}
    for pack in packs:
        for file in _json_files(pack, "subgraphs"):
            _add(found, Blueprint("", "custom_node", file.stem, pack_source(pack.name), file))
    for folder in folders:
        for file in _json_files(folder, "."):
            _add(found, Blueprint("", "templates", file.stem, "comfyui", file))
    return found


def _add(found: dict[str, Blueprint], blueprint: Blueprint) -> None:
    blueprint.id = hashlib.sha256(f"{blueprint.source}{blueprint.path.as_posix()}".encode()).hexdigest()
    found[blueprint.id] = blueprint


def _json_files(root: Path, folder: str) -> Iterator[Path]:
    """The JSON files of a folder by name. A link that leads out of `root` is none of them."""
    try:
        names = sorted(path.name for path in (root / folder).iterdir() if path.suffix == ".json")
    except OSError:
        return
    for name in names:
        try:
            path = resolve_inside(root, folder, name)
        except PathOutsideError:
            continue
        if is_file(path):
            yield path


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("the translation %s cannot be read: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}
