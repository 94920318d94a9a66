"""SaveImage and PreviewImage: what is in the files, and how they come to their names."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyk.app import App
from comfyk_core_nodes.images import save
from comfyk_core_nodes.images.filename import SaveError
from PIL import Image

Run = Callable[..., Any]

PROMPT = {"1": {"class_type": "SaveImage", "inputs": {"seed": 7}}}


def grey(batch: int = 1, height: int = 4, width: int = 6) -> torch.Tensor:
    return torch.full((batch, height, width, 3), 0.5)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_pixels_and_result(app: App, run: Run) -> None:
    images = torch.rand(2, 5, 7, 3)
    images[0, 0, 0] = torch.tensor([-1.0, 2.0, 0.999])
    result = run("SaveImage", images=images, filename_prefix="a/b/c")
    assert result.values == (images,)
    assert result.ui == {
        "images": [{"filename": f"c_0000{n}_.png", "subfolder": "a/b", "type": "output"} for n in (1, 2)]
    }
    for number, image in enumerate(images, 1):
        with Image.open(app.folders.output / "a" / "b" / f"c_0000{number}_.png") as picture:
            assert picture.mode == "RGB"
            # Fractions are cut off, not rounded.
            assert np.array_equal(np.asarray(picture), np.clip(255 * image.numpy(), 0, 255).astype(np.uint8))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels(app: App, run: Run, channels: int, mode: str) -> None:
    run("SaveImage", images=torch.rand(1, 4, 5, channels), filename_prefix="a")
    with Image.open(app.folders.output / "a_00001_.png") as picture:
        assert picture.mode == mode


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(app: App, run: Run, dtype: torch.dtype) -> None:
    run("SaveImage", images=grey().to(dtype), filename_prefix="a")
    with Image.open(app.folders.output / "a_00001_.png") as picture:
        assert picture.getpixel((0, 0)) == (127, 127, 127)


def test_what_is_no_picture_is_said_so(app: App, run: Run) -> None:
    with pytest.raises(ValueError, match=r"\[4, 6, 5\]"):
        run("SaveImage", images=torch.rand(1, 4, 6, 5), filename_prefix="a")
    assert files(app.folders.output) == []


def test_metadata_round_trip(app: App, run: Run) -> None:
    extra = {"workflow": {"nodes": [{"title": "Größe 大"}]}, "other": [1, None], "ключ": 1, "": 2}
    run("SaveImage", prompt=PROMPT, extra_pnginfo=extra, images=grey(), filename_prefix="a")
    with Image.open(app.folders.output / "a_00001_.png") as picture:
        text = {key: json.loads(value) for key, value in picture.info.items()}
    assert text == {"prompt": PROMPT, "workflow": extra["workflow"], "other": [1, None]}


def test_metadata_can_be_switched_off(app: App, run: Run) -> None:
    app.settings.section("metadata").disable = True
    run("SaveImage", prompt=PROMPT, extra_pnginfo={"workflow": {}}, images=grey(), filename_prefix="a")
    with Image.open(app.folders.output / "a_00001_.png") as picture:
        assert picture.info == {}


def test_preview_goes_to_temp(app: App, run: Run) -> None:
    result = run("PreviewImage", prompt=PROMPT, images=grey(2))
    names = [image["filename"] for image in result.ui["images"]]
    assert files(app.folders.temp) == names
    assert files(app.folders.output) == []
    assert re.fullmatch(r"ComfyUI_temp_[a-z]{5}_00001_\.png", names[0])
    assert result.ui["images"][0] == {"filename": names[0], "subfolder": "", "type": "temp"}
    with Image.open(app.folders.temp / names[0]) as picture:
        assert json.loads(picture.info["prompt"]) == PROMPT


def test_counting_goes_on_from_the_highest(app: App, run: Run) -> None:
    for name in ("a_00007_.png", "a_00009_.webp", "a_x_.png", "a_b_00099_.png", "ab_00500_.png", "a_00012"):
        (app.folders.output / name).write_bytes(b"mine")
    run("SaveImage", images=grey(2), filename_prefix="a")
    assert {"a_00013_.png", "a_00014_.png"} <= set(files(app.folders.output))
    assert (app.folders.output / "a_00007_.png").read_bytes() == b"mine"


def test_counter_past_five_digits(app: App, run: Run) -> None:
    (app.folders.output / "a_99999_.png").write_bytes(b"")
    assert run("SaveImage", images=grey(), filename_prefix="a").ui["images"][0]["filename"] == "a_100000_.png"


def test_batch_number(app: App, run: Run) -> None:
    for _ in range(2):
        run("SaveImage", images=grey(2), filename_prefix="a%batch_num%")
    assert files(app.folders.output) == ["a0_00001_.png", "a0_00003_.png", "a1_00002_.png", "a1_00004_.png"]


def test_a_name_taken_meanwhile_is_left_alone(app: App, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    unpatched = save._take_name

    def somebody_is_faster(temporary: Path, final: Path) -> bool:
        if final.name == "a_00001_.png" and not final.exists():
            final.write_bytes(b"theirs")
        return unpatched(temporary, final)

    monkeypatch.setattr(save, "_take_name", somebody_is_faster)
    run("SaveImage", images=grey(), filename_prefix="a")
    assert files(app.folders.output) == ["a_00001_.png", "a_00002_.png"]
    assert (app.folders.output / "a_00001_.png").read_bytes() == b"theirs"


def test_without_hard_links(app: App, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (app.folders.output / "a_00001_.png").write_bytes(b"mine")
    monkeypatch.setattr("comfyk_core_nodes.nodes.image.save.next_counter", lambda target: 1)
    run("SaveImage", images=grey(2), filename_prefix="a")
    assert files(app.folders.output) == ["a_00001_.png", "a_00002_.png", "a_00003_.png"]
    assert (app.folders.output / "a_00001_.png").read_bytes() == b"mine"
    with Image.open(app.folders.output / "a_00003_.png") as picture:
        picture.load()


def test_files_have_the_rights_of_the_umask(app: App, run: Run) -> None:
    before = os.umask(0o022)
    try:
        run("SaveImage", images=grey(), filename_prefix="a")
    finally:
        os.umask(before)
    assert (app.folders.output / "a_00001_.png").stat().st_mode & 0o777 == 0o644


def test_threads_get_names_of_their_own(app: App, run: Run) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = [
            pool.submit(copy_context().run, run, "SaveImage", images=grey(5), filename_prefix="a")
            for _ in range(8)
        ]
        names = [image["filename"] for result in results for image in result.result().ui["images"]]
    assert sorted(names) == [f"a_{n:05}_.png" for n in range(1, 41)] == files(app.folders.output)


SAVER = """
import sys, torch
from pathlib import Path
from comfyk_core_nodes.images.filename import next_counter, resolve_prefix
from comfyk_core_nodes.images.save import save_pngs
images = torch.rand(3, 512, 512, 3)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    target = resolve_prefix("a", Path(sys.argv[1]))
    print(*save_pngs(images, target, next_counter(target), compress_level=4), sep="\\n", flush=True)
"""


def start_saver(folder: Path, rounds: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SAVER, str(folder), str(rounds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_get_names_of_their_own_and_a_kill_leaves_no_broken_file(app: App, run: Run) -> None:
    folder = app.folders.output
    savers = [start_saver(folder, rounds) for rounds in (2, 2, 1000)]
    for saver in savers:
        assert saver.stdout is not None
        assert saver.stdout.readline() == "ready\n"
    for saver in savers:
        assert saver.stdin is not None
        saver.stdin.write("go\n")
        saver.stdin.flush()
    *whole, victim = savers
    names = [name for saver in whole for name in saver.communicate(timeout=60)[0].split()]
    deadline = time.monotonic() + 30
    while not list(folder.glob(".comfyk-saving-*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    victim.send_signal(signal.SIGKILL)
    names += victim.communicate()[0].split()
    assert len(names) == len(set(names))
    pictures = [path for path in folder.iterdir() if not path.name.startswith(".")]
    assert set(names) <= {path.name for path in pictures}
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
            assert picture.size == (512, 512)
    # What the kill left behind is gone once it is old and somebody saves here.
    for path in folder.glob(".comfyk-saving-*"):
        os.utime(path, (0, 0))
    run("SaveImage", images=grey(), filename_prefix="a")
    assert not list(folder.glob(".*"))


def test_a_failed_save_leaves_nothing(app: App, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, file: Any, *_: Any, **__: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SaveError, match=r"a_00001_\.png.*No space left"):
        run("SaveImage", images=grey(), filename_prefix="a")
    assert list(app.folders.output.iterdir()) == []


@pytest.mark.parametrize(
    "prefix",
    ["../x", "a/../../x", "/tmp/x", "..", "..\\x", "link/x", "a\0b", "C:/x", "%Evil.text%/x", "con/x"],
)
def test_no_way_out_of_the_output_folder(app: App, run: Run, tmp_path: Path, prefix: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (app.folders.output / "link").symlink_to(outside)
    prompt = {"1": {"class_type": "Evil", "inputs": {"text": ".."}}}
    with pytest.raises(SaveError, match="filename_prefix") as caught:
        run("SaveImage", prompt=prompt, images=grey(), filename_prefix=prefix)
    assert repr(prefix) in str(caught.value)
    assert files(outside) == []
    assert files(app.folders.output) == []


def test_a_file_in_the_way_of_a_subfolder_is_said(app: App, run: Run) -> None:
    (app.folders.output / "a").write_bytes(b"")
    with pytest.raises(SaveError, match="'a/b'"):
        run("SaveImage", images=grey(), filename_prefix="a/b")


def test_size_in_the_name(app: App, run: Run) -> None:
    run("SaveImage", images=grey(1, 4, 6), filename_prefix="%width%x%height%")
    assert files(app.folders.output) == ["6x4_00001_.png"]
