"""The start: what is said when there is no UI, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfyk_frontend import packages, serving


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_template_folders", "_docs_folders"):
        monkeypatch.setattr(serving, name, lambda: [])
    monkeypatch.setattr(packages, "find_spec", lambda name: None)


@pytest.mark.usefixtures("nothing_installed")
async def test_without_the_package_the_server_is_headless(
    start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    client = await start()
    async with client.get("/", headers={"Accept": "text/html"}) as response:
        assert response.status == 200
        assert "pip install" in await response.text()
    assert "pip install comfyui-frontend-package" in caplog.text
    async with client.get("/scripts/app.js") as response:
        assert response.status == 404
    for path, package in (("/templates/index.json", "templates"), ("/docs/KSampler/en.md", "docs")):
        async with client.get(path) as response:
            assert response.status == 404
            assert (
                f"pip install comfyui-{'workflow' if package == 'templates' else 'embedded'}-{package}"
                in (await response.text())
            )
    async with client.get("/extensions") as response:
        assert await response.json() == []


def comfyk(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "comfyk", *arguments], capture_output=True, text=True, timeout=60
    )


def test_a_root_without_a_build_is_refused(tmp_path: Path) -> None:
    ended = comfyk("start", "--base-directory", str(tmp_path), "--front-end-root", str(tmp_path))
    assert ended.returncode != 0
    assert "--front-end-root" in ended.stderr and "has no index.html" in ended.stderr


def test_the_packages_are_not_imported() -> None:
    code = (
        "import sys\n"
        "import comfyk_frontend.plugin\n"
        "from comfyk_frontend import packages\n"
        "assert packages.ui_folder() and packages.docs_folder() and packages.template_folders()\n"
        "bad = [name for name in sys.modules if name.startswith('comfyui_') or name == 'aiohttp']\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
