"""Files of weights that are damaged, hostile, or something else: an error that says so, and nothing run."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk_core_nodes.weights.assign import assign_weights
from comfyk_core_nodes.weights.files import ModelFileError, load_torch_file
from comfyk_core_nodes.weights.layers import Linear
from comfyk_core_nodes.weights.mapped import drop_pages
from comfyk_core_nodes.weights.state_dict import count_blocks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

pytestmark = pytest.mark.usefixtures("seeded")


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def refuse(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as error:
        load_torch_file(path)
    assert path.name in str(error.value)
    assert "expected" in str(error.value) and "found" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"PK\x03\x04" + b"\0" * 100, "zip archive"),
        (pickle.dumps({"a": 1}) + b"\0" * 20, "pickle"),
        (safetensors({"a": ENTRY}, b"\0" * 4), "cut off"),
        (safetensors({"a": ENTRY}, b"\0" * 8, length=2**60), "header that would take"),
        (safetensors({"a": ENTRY}, b"\0" * 8, length=5000), "header that would take"),
        (safetensors({"a": {**ENTRY, "dtype": "F33"}}, b"\0" * 8), "damaged"),
        (safetensors({"a": {**ENTRY, "shape": [2**62, 2**62]}}, b"\0" * 8), "damaged"),
        (safetensors({"a": {**ENTRY, "data_offsets": [8, 0]}}, b"\0" * 8), "damaged"),
        (safetensors({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}}, b"\0" * 12), "damaged"),
        (safetensors(b"[" * 2000, b""), "damaged"),
    ],
)
def test_a_bad_safetensors_file(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in refuse(tmp_path / "model.safetensors", content)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300), st.booleans())
def test_any_header_is_read_or_refused(tmp_path: Path, junk: bytes, at: int, mend: bool) -> None:
    whole = safetensors({"a": ENTRY, "b": {**ENTRY, "data_offsets": [8, 16]}}, b"\1" * 16)
    content = whole[:at] + junk + whole[at + len(junk) :]
    if mend:
        content = struct.pack("<Q", max(0, len(content) - 24)) + content[8:]
    path = tmp_path / "fuzzed.safetensors"
    path.write_bytes(content)
    try:
        state, metadata = load_torch_file(path)
    except ModelFileError as error:
        assert "fuzzed.safetensors" in str(error)
    else:
        # What was read is what the header says.
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        assert metadata == (header.pop("__metadata__", None) or {})
        assert state.keys() == header.keys()
        for key, entry in header.items():
            start, end = entry["data_offsets"]
            assert list(state[key].shape) == entry["shape"]
            assert (
                state[key].reshape(-1).view(torch.uint8).numpy().tobytes() == content[8 + length :][start:end]
            )


class Boom:
    ran = False

    def __reduce__(self) -> tuple[object, ...]:
        return (setattr, (Boom, "ran", True))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(
        {"state_dict": {"a": torch.zeros(1)}, "x": Boom()}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(ModelFileError, match=r"model.ckpt.*only running code could build"):
        load_torch_file(path)
    assert not Boom.ran


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04nothing", b"\x80\x02."])
def test_a_damaged_pickle(tmp_path: Path, content: bytes) -> None:
    refuse(tmp_path / "model.pt", content)


def zipped(files: dict[str, bytes], compression: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def torch_file(*, old: bool = False) -> bytes:
    made = io.BytesIO()
    torch.save(
        {"state_dict": {"a": torch.ones(500), "b": torch.ones(500)}},
        made,
        _use_new_zipfile_serialization=not old,
    )
    return made.getvalue()


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS pointer"),
        (safetensors({"a": ENTRY}, b"\0" * 8), "a safetensors file: rename it to .safetensors"),
        (torch_file()[:-500], "cut off or damaged; download it again"),
        (torch_file(old=True)[:-500], "cut off or damaged; download it again"),
        (torch_file(old=True)[:150], "cut off or damaged; download it again"),
        (zipped(unzipped(torch_file()), zipfile.ZIP_DEFLATED), "a compressed zip archive"),
        (zipped({"model.safetensors": b"", "read.txt": b""}, zipfile.ZIP_STORED), "of something else .model"),
        (b"GGUF" + b"\1" * 50, "neither a zip archive nor a pickle"),
    ],
)
def test_what_a_ckpt_file_really_is(tmp_path: Path, use: Any, content: bytes, said: str) -> None:
    for mmap in (True, False):
        use(mmap=mmap)
        text = refuse(tmp_path / "model.ckpt", content)
        assert re.search(said, text), text
        assert "running code" not in text and "weights_only" not in text


def test_a_zip_bomb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    bomb = zipped({"model/data.pkl": b"\x80\x02" + bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    (tmp_path / "bomb.ckpt").write_bytes(bomb)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=r"bomb.ckpt.*\(50000002 bytes in \d+\)"):
            load_torch_file(tmp_path / "bomb.ckpt")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_pickles_of_all_shapes(tmp_path: Path) -> None:
    weights = {"a.weight": torch.arange(4.0)}
    for number, wrapped in enumerate(
        (weights, {"state_dict": weights, "epoch": 3}, {"params_ema": weights}, {"only": weights})
    ):
        torch.save(wrapped, tmp_path / f"{number}.pth", _use_new_zipfile_serialization=number % 2 == 0)
        state, _ = load_torch_file(tmp_path / f"{number}.pth")
        assert torch.equal(state["a.weight"], torch.arange(4.0))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelFileError, match="dictionary of tensors"):
        load_torch_file(tmp_path / "list.pt")


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        load_torch_file(tmp_path / "missing.safetensors")
    refuse(tmp_path / "model.gguf", b"GGUF")


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(1024, 1024), "small": torch.ones(3)}, path, metadata={"a": "b"})
    state, metadata = load_torch_file(path)
    assert metadata == {"a": "b"}
    assert state["weight"].untyped_storage().nbytes() >= path.stat().st_size - 4096


def is_mapped(tensor: Tensor, path: Path) -> bool:
    """Whether the memory of the tensor is the file's."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return line.endswith(str(path))
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="what is mapped is told by /proc")
@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_files_are_mapped_or_read(tmp_path: Path, use: Any, mmap: bool, suffix: str) -> None:
    """`--disable-mmap`: no tensor is a view of the file, and all are the same."""
    use(mmap=mmap)
    tensors = {
        "weight": torch.randn(300, 7),
        "half": torch.randn(3).half(),
        "one": torch.tensor(5, dtype=torch.int64),
        "none": torch.zeros(0, 4),
        "fp8": torch.randn(5).to(torch.float8_e4m3fn),
        "last": torch.randn(64, 64).bfloat16(),
    }
    path = tmp_path / f"weights.{suffix}"
    if suffix == "ckpt":
        torch.save({"state_dict": tensors}, path)
    else:
        save_file(tensors, path, metadata={"format": "pt"})
    state, metadata = load_torch_file(path)
    assert state.keys() == tensors.keys()
    for key, value in tensors.items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key].float(), value.float()), key
    assert is_mapped(state["weight"], path) == is_mapped(state["last"], path) == mmap
    assert metadata == ({} if suffix == "ckpt" else {"format": "pt"})


def test_dropped_pages_are_read_again_and_written_ones_kept(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.arange(2.0**20)}, path)
    weight = load_torch_file(path)[0]["weight"]
    assert drop_pages(weight) > 4_000_000
    assert torch.equal(weight, torch.arange(2.0**20))
    weight[500_000] = -1
    assert drop_pages(weight) == 0
    assert weight[500_000] == -1
    assert load_torch_file(path)[0]["weight"][500_000] == 500_000
    assert drop_pages(torch.ones(2**20)) == 0
    assert drop_pages(torch.ones(3)) == 0


def test_weights_become_parameters_without_a_copy() -> None:
    module = torch.nn.Sequential(Linear(3, 2, device="meta"))
    weight, bias = torch.ones(2, 3).half(), torch.ones(2)
    missing, left_over = assign_weights(module, {"0.weight": weight, "x": bias})
    assert (missing, left_over) == (["0.bias"], ["x"])
    assert module[0].weight.data_ptr() == weight.data_ptr()
    with pytest.raises(ValueError, match=r"0.bias has the shape \[3\], not \[2\]"):
        assign_weights(module, {"0.bias": torch.ones(3)})


def test_blocks_are_counted_without_gaps() -> None:
    keys = ["a.0.x", "a.1.y", "a.10.z", "a.3.x", "b.0.x", "a.x"]
    assert count_blocks(keys, "a.{}.") == 2
    assert count_blocks(keys, "b.{}") == 1
    assert count_blocks(keys, "c.{}.") == 0
