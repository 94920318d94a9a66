"""What plugins may use of the kernel: modules with a complete, documented `__all__`, and nothing beside it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import comfyk
import pytest

ROOT = Path(__file__).parents[2]
PUBLIC = ["comfyk", *dict.fromkeys(re.findall(r"`(comfyk\.\w+)`", comfyk.__doc__ or ""))]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_names_what_it_offers_and_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    assert len(module.__all__) == len(set(module.__all__)), "a name stands twice"
    undocumented = []
    for one in module.__all__:
        value = getattr(module, one)
        if (inspect.isclass(value) or inspect.isfunction(value)) and not inspect.getdoc(value):
            undocumented.append(one)
    assert undocumented == []


def test_the_docs_name_all_that_comfyk_itself_offers() -> None:
    docs = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("plugins.md", "nodes.md"))
    assert [name for name in comfyk.__all__ if not re.search(rf"\b{name}\b", docs)] == []


def imported(file: Path) -> Iterator[tuple[str, str]]:
    """(module, name) for each import from the kernel in a file; the name is empty for `import module`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and re.match(r"comfyk(\.|$)", node.module):
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if re.match(r"comfyk(\.|$)", alias.name))


@pytest.mark.parametrize("folder", ["plugins", "tests/plugins"])
def test_plugins_use_what_is_public_and_nothing_else(folder: str) -> None:
    beyond = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        if file.name in ("conftest.py",) or file.name.startswith("test_"):
            continue
        for module, name in imported(file):
            is_module = f"{module}.{name}" in PUBLIC
            if module not in PUBLIC or (
                name and not is_module and name not in importlib.import_module(module).__all__
            ):
                beyond.append(f"{file.relative_to(ROOT)}: {module} {name}")
    assert beyond == []
