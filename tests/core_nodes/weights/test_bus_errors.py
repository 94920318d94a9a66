"""What happens to a process that touches a mapped file beyond its end."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from comfyk_core_nodes.weights import bus_errors
from comfyk_core_nodes.weights.file_error import ModelFileError
from comfyk_core_nodes.weights.files import load_torch_file
from comfyk_core_nodes.weights.mapped_files import check_all_there
from safetensors.torch import save_file

pytestmark = pytest.mark.skipif(bus_errors.guard() is None, reason="there is no guard for this system")

SCRIPT = """
import faulthandler, mmap, os, sys
import torch
from comfyk_core_nodes.weights.bus_errors import guard

def mapped(path):
    with open(path, "wb") as file:
        file.write(b"\\1" * SIZE)
    with open(path, "rb") as file:
        return torch.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=torch.uint8)

SIZE = 3_000_000
torch.set_num_threads(4)
folder = sys.argv[1]
guarded, other = mapped(folder + "/guarded"), mapped(folder + "/other")
slot = guard().add(guarded.data_ptr(), guarded.data_ptr() + SIZE)
faulthandler.enable()
guard().add(0, 0)
os.truncate(folder + "/guarded", 4096)
print(int(guarded.int().sum()), guard().hit(slot), flush=True)
os.truncate(folder + "/other", 4096)
print(int(other.int().sum()), flush=True)
"""


def test_only_what_is_guarded_reads_as_zeros(tmp_path: Path) -> None:
    """On all of torch's threads. Another file's signal goes on to whoever had it before, and ends the process."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert ended.stdout.split() == ["4096", "True"]
    assert "Fatal Python error: Bus error" in ended.stderr
    assert ended.returncode == -signal.SIGBUS


def test_a_full_table(tmp_path: Path) -> None:
    """Files beyond it are read in place of being mapped, so that nothing can happen to them."""
    guard = bus_errors.guard()
    assert guard is not None
    save_file({"a": torch.ones(5000)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.ones(5000)}, tmp_path / "a.pt")
    slots = []
    while (slot := guard.add(0, 0)) is not None:
        slots.append(slot)
    try:
        loaded = [load_torch_file(tmp_path / name)[0]["a"] for name in ("a.safetensors", "a.pt")]
    finally:
        for slot in slots:
            guard.remove(slot)
    for name in ("a.safetensors", "a.pt"):
        (tmp_path / name).write_bytes(b"")
    assert [float(tensor.sum()) for tensor in loaded] == [5000.0, 5000.0]
    check_all_there()


def test_a_mapping_that_goes_gives_its_place_back(tmp_path: Path) -> None:
    guard = bus_errors.guard()
    assert guard is not None
    save_file({"a": torch.ones(5)}, tmp_path / "a.safetensors")
    for _ in range(bus_errors.SLOTS + 1):
        load_torch_file(tmp_path / "a.safetensors")
    slot = guard.add(0, 0)
    assert slot is not None
    guard.remove(slot)


def test_a_mapping_that_goes_while_another_one_comes_holds_nothing_up(tmp_path: Path) -> None:
    """The garbage collector runs at any allocation, in the middle of guarding the next file too."""
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(4)}, path)
    guard = bus_errors.guard()
    assert guard is not None
    state = load_torch_file(path)
    with guard._lock:  # as in `add`
        del state
        gc.collect()
    assert float(load_torch_file(path)[0]["weight"].sum()) == 4


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_each_harm_is_told_once(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write: Callable[..., None] = save_file if suffix == ".safetensors" else torch.save  # type: ignore[assignment]
    write({"a": torch.ones(100_000)}, path)
    loaded = load_torch_file(path)[0]["a"]
    check_all_there()
    with path.open("r+b") as file:
        file.truncate(8192)
    assert float(loaded.sum()) < 3000
    with pytest.raises(ModelFileError, match=rf"a{suffix}.*got shorter"):
        check_all_there()
    check_all_there()
