"""The list of templates, `index.json` and its translations: the starters, and what of the packages runs here."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyk.wire import dumps, loads

from comfyk_frontend import starters
from comfyk_frontend.requirements import Known, what_is_missing
from comfyk_frontend.settings import FrontendSettings
from comfyk_frontend.ui_files import find

if TYPE_CHECKING:
    from comfyk import App

log = logging.getLogger(__name__)

INDEX = re.compile(r"index(\.[A-Za-z]{2}(-[A-Za-z]+)?)?\.json")
"""The list, or a translation of it; other files that begin so are no lists."""
_MARK = "Does not run here"


@dataclass(frozen=True, slots=True)
class Document:
    body: bytes
    tag: str


class Catalog:
    """The lists that are served. What is missing for a template is found out once, and again when nodes change."""

    def __init__(self, app: App, folders: Callable[[], list[Path]]) -> None:
        self._app = app
        self._folders = folders
        self._lock = asyncio.Lock()
        self._judged_for: tuple[int, tuple[str, ...]] | None = None
        self._missing: dict[str, str | None] = {}
        """By template, what stands in the way of running it."""

    async def document(self, name: str) -> Document | None:
        """The list of that name; None where there is neither it nor a starter."""
        settings = self._app.settings.section("frontend", FrontendSettings)
        await self._app.packs_loaded()
        own = await asyncio.to_thread(starters.category, self._app) if settings.starters else None
        path = await asyncio.to_thread(lambda: find(self._folders(), name))
        if path is None and (own is None or name != "index.json"):
            return None
        packaged = _categories(await asyncio.to_thread(path.read_bytes)) if path is not None else []
        templates = [template for category in packaged for template in category["templates"]]
        missing = await self._judge([template["name"] for template in templates])
        if settings.templates == "runnable":
            for category in packaged:
                category["templates"] = [one for one in category["templates"] if missing[one["name"]] is None]
        else:
            for template in templates:
                _mark(template, missing[template["name"]])
        packaged = [category for category in packaged if category["templates"]]
        if own is not None:
            _rank_first(own, packaged)
        body = dumps([*([own] if own is not None else []), *packaged])
        return Document(body, hashlib.blake2b(body, digest_size=16).hexdigest())

    async def _judge(self, names: list[str]) -> dict[str, str | None]:
        patterns = self._patterns()
        async with self._lock:
            now = (self._app.nodes.revision, patterns)
            if self._judged_for != now:
                self._missing = {}
                self._judged_for = now
            if new := [name for name in names if name not in self._missing]:
                body, _ = await self._app.object_info.document()
                self._missing |= await asyncio.to_thread(self._judge_each, new, body, patterns)
            return {name: self._missing[name] for name in names}

    def _patterns(self) -> tuple[str, ...]:
        given = self._app.hook.comfyk_known_model_files()
        return tuple(sorted({pattern.lower() for patterns in given for pattern in patterns}))

    def _judge_each(self, names: list[str], nodes: bytes, patterns: tuple[str, ...]) -> dict[str, str | None]:
        known = Known(loads(nodes), patterns)
        return {name: self._missing_for(name, known) for name in names}

    def _missing_for(self, name: str, known: Known) -> str | None:
        path = find(self._folders(), f"{name}.json")
        if path is None:
            return "its workflow, which is not here"
        try:
            return what_is_missing(loads(path.read_bytes(), nan=True), known)
        except Exception as error:  # a package's file may hold anything
            log.warning("the template %s cannot be read: %s", path, error)
            return "a workflow that can be read"


def _mark(template: dict[str, Any], missing: str | None) -> None:
    if missing is not None:
        tags = template.get("tags")
        template["tags"] = [_MARK, *(tags if isinstance(tags, list) else [])]
        template["description"] = f"{_MARK}: it needs {missing}. {template.get('description', '')}"


def _categories(data: bytes) -> list[dict[str, Any]]:
    """The categories of a list that can be read, and of each the templates that have a name."""
    try:
        listed = loads(data)
    except ValueError as error:
        log.warning("the list of the packaged templates cannot be read: %s", error)
        return []
    found = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    for category in found:
        templates = category.get("templates")
        category["templates"] = [
            one
            for one in (templates if isinstance(templates, list) else [])
            if isinstance(one, dict) and isinstance(one.get("name"), str)
        ]
    return found


def _rank_first(own: dict[str, Any], packaged: list[dict[str, Any]]) -> None:
    """The UI sorts by how often a template was used, unless it is told otherwise."""
    counts = [one.get("usage") for category in packaged for one in category["templates"]]
    most = max((count for count in counts if isinstance(count, int | float)), default=0)
    for before_end, template in enumerate(reversed(own["templates"]), 1):
        template["usage"] = most + before_end
