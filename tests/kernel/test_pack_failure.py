"""Why a pack failed, in one line, and what is kept of it for `comfyk plugin list`."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from comfyk.pack_info import load_packs, save_packs

from .pack_files import load, pack, v1


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import comfy_execution.nothing_like_this", "it needs ComfyUI's module comfy_execution"),
        ("from latent_preview.missing import x", "it needs ComfyUI's module latent_preview"),
        (
            "try:\n    import node_helpers_of_old\nexcept ImportError:\n    import server.missing_part",
            "it needs ComfyUI's module server",
        ),
        (
            "try:\n    import comfy_extras.gone\nexcept ImportError as e:\n    raise RuntimeError('no') from e",
            "it needs ComfyUI's module comfy_extras",
        ),
        ("import nothing_like_this", "ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("import utils", "ModuleNotFoundError: No module named 'utils'"),  # may well be the pack's own
        ("raise ValueError('one\\ntwo')", "ValueError: one two"),
        ("raise ValueError('x' * 5000)", "ValueError: xxx"),
    ],
)
async def test_the_reason_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: str, reason: str
) -> None:
    pack(tmp_path, "bad", code)
    app = await load(tmp_path)
    [info] = app.packs.infos()
    assert info.state == "failed" and info.reason.startswith(reason)
    assert "\n" not in info.reason and len(info.reason) < 320
    if "ComfyUI" in reason:
        assert info.reason.endswith(", which comfyk does not have")
    assert "Traceback" in info.error
    assert any(
        record.levelno == logging.ERROR and info.reason in record.getMessage() for record in caplog.records
    )


async def test_a_name_that_a_module_of_comfyui_lacks(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "comfy_kitchen.py").write_text("here = 1\n")
    at = f"import sys\nsys.path.insert(0, {str(tmp_path / 'modules')!r})\n"
    pack(tmp_path, "a", at + "from comfy_kitchen import missing")
    pack(tmp_path, "b", at + "import comfy_kitchen\ncomfy_kitchen.missing()")
    app = await load(tmp_path)
    first, second = app.packs.infos()
    assert first.reason.startswith(
        "it needs something of ComfyUI's module comfy_kitchen that comfyk does not"
    )
    assert second.reason == "it needs comfy_kitchen.missing of ComfyUI, which comfyk does not have"


async def test_packs_are_written_down_and_read_back(tmp_path: Path) -> None:
    pack(tmp_path, "good", v1("Good"))
    pack(tmp_path, "bad", "1 / 0")
    app = await load(tmp_path)
    file = tmp_path / "user" / "packs.json"
    save_packs(file, app.packs.infos())
    assert load_packs(file) == app.packs.infos()
    file.write_text('[{"name": "x"}]')
    assert load_packs(file) == [] and load_packs(tmp_path / "none.json") == []
