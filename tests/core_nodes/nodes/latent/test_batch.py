"""Batches of latents, with masks and the numbers that say which noise each item gets; and latents in files."""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfyk.app import App
from comfyk_core_nodes.weights.files import ModelFileError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

Out = Callable[..., Any]
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def numbered(batch: int, first: int = 0, **more: Any) -> dict[str, Any]:
    numbers = torch.arange(first, first + batch, dtype=torch.float32)
    return {"samples": numbers.reshape(-1, 1, 1, 1).repeat(1, 4, 2, 3), **more}


def numbers(value: dict[str, Any]) -> list[int]:
    return [int(item[0, 0, 0]) for item in value["samples"]]


def masks(count: int, first: int = 0) -> torch.Tensor:
    return (torch.arange(first, first + count) / 100).reshape(-1, 1, 1, 1).repeat(1, 1, 16, 24)


def mask_numbers(value: dict[str, Any]) -> list[int]:
    return [round(float(mask[0, 0, 0]) * 100) for mask in value["noise_mask"]]


@pytest.mark.parametrize(
    ("index", "length", "expected"),
    [(0, 1, [0]), (2, 2, [2, 3]), (3, 9, [3, 4]), (-2, 9, [3, 4]), (-9, 1, [0]), (99, 2, [4])],
)
def test_from_batch(out: Out, index: int, length: int, expected: list[int]) -> None:
    taken = out("LatentFromBatch", samples=numbered(5), batch_index=index, length=length)
    assert numbers(taken) == taken["batch_index"] == expected
    assert "noise_mask" not in taken


def test_from_batch_takes_masks_and_noise_along(out: Out) -> None:
    value = numbered(5, noise_mask=masks(5), batch_index=[9, 8, 7, 6, 5])
    taken = out("LatentFromBatch", samples=value, batch_index=1, length=2)
    assert mask_numbers(taken) == [1, 2]
    assert taken["batch_index"] == [8, 7]
    # Two masks for five items take turns, one is for all.
    taken = out("LatentFromBatch", samples=numbered(5, noise_mask=masks(2)), batch_index=1, length=3)
    assert mask_numbers(taken) == [1, 0, 1]
    taken = out("LatentFromBatch", samples=numbered(5, noise_mask=masks(1)), batch_index=1, length=3)
    assert mask_numbers(taken) == [0]


def test_repeat(out: Out) -> None:
    repeated = out("RepeatLatentBatch", samples=numbered(2), amount=3)
    assert numbers(repeated) == [0, 1, 0, 1, 0, 1]
    assert "batch_index" not in repeated
    value = numbered(2, batch_index=[3, 5], noise_mask=masks(2))
    repeated = out("RepeatLatentBatch", samples=value, amount=3)
    assert repeated["batch_index"] == [3, 5, 6, 8, 9, 11]
    assert mask_numbers(repeated) == [0, 1] * 3
    assert value["batch_index"] == [3, 5]
    one = out("RepeatLatentBatch", samples=numbered(2, noise_mask=masks(1)), amount=3)
    assert len(one["noise_mask"]) == 1
    # Each item keeps its mask also when there are fewer masks than items.
    few = out("RepeatLatentBatch", samples=numbered(3, noise_mask=masks(2)), amount=2)
    assert mask_numbers(few) == [0, 1, 0] * 2
    video = {"samples": torch.zeros(1, 4, 2, 3, 3)}
    assert out("RepeatLatentBatch", samples=video, amount=2)["samples"].shape == (2, 4, 2, 3, 3)


def test_batch(out: Out) -> None:
    joined = out("LatentBatch", samples1=numbered(2, batch_index=[4, 5]), samples2=numbered(2, 7))
    assert numbers(joined) == [0, 1, 7, 8]
    assert joined["batch_index"] == [4, 5, 0, 1]
    other = {"samples": torch.full((1, 4, 6, 6), 3.0)}
    assert numbers(out("LatentBatch", samples1=numbered(1), samples2=other)) == [0, 3]
    for wrong in ((1, 16, 2, 3), (1, 1, 2, 3)):
        with pytest.raises(ValueError, match="latents of the shapes"):
            out("LatentBatch", samples1=numbered(1), samples2={"samples": torch.zeros(wrong)})


def test_seed_behavior(out: Out) -> None:
    value = numbered(3, batch_index=[4, 5, 6])
    assert out("LatentBatchSeedBehavior", samples=value, seed_behavior="fixed")["batch_index"] == [4, 4, 4]
    assert "batch_index" not in out("LatentBatchSeedBehavior", samples=value, seed_behavior="random")
    assert out("LatentBatchSeedBehavior", samples=numbered(2), seed_behavior="fixed")["batch_index"] == [0, 0]
    assert value["batch_index"] == [4, 5, 6]


@quick
@given(
    st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.booleans()), min_size=1, max_size=5),
    st.integers(1, 5),
)
def test_rebatch_keeps_all_in_order(out: Out, batches: list[tuple[int, bool, bool]], size: int) -> None:
    values, expected_masks, expected_indexes, first = [], [], [], 0
    for count, has_mask, has_index in batches:
        indexes = [50 + number for number in range(count)] if has_index else list(range(first, first + count))
        more: dict[str, Any] = {"noise_mask": masks(count, first)} if has_mask else {}
        values.append(numbered(count, first, **more, **({"batch_index": indexes} if has_index else {})))
        expected_masks += range(first, first + count) if has_mask else [100] * count
        expected_indexes += indexes
        first += count
    regrouped = out("RebatchLatents", latents=values, batch_size=[size])
    assert [number for one in regrouped for number in numbers(one)] == list(range(first))
    assert [number for one in regrouped for number in one["batch_index"]] == expected_indexes
    assert [len(one["samples"]) for one in regrouped[:-1]] == [size] * (len(regrouped) - 1)
    assert 1 <= len(regrouped[-1]["samples"]) <= size
    for number, one in enumerate(regrouped):
        wanted = expected_masks[number * size : (number + 1) * size]
        assert (mask_numbers(one) if "noise_mask" in one else [100] * len(wanted)) == wanted


def test_rebatch_keeps_sizes_apart(out: Out) -> None:
    small, large = numbered(1), {"samples": torch.zeros(3, 4, 5, 5)}
    regrouped = out("RebatchLatents", latents=[small, large, small, small], batch_size=[2])
    assert [tuple(one["samples"].shape) for one in regrouped] == [
        (1, 4, 2, 3),
        (2, 4, 5, 5),
        (1, 4, 5, 5),
        (2, 4, 2, 3),
    ]
    assert [one["batch_index"] for one in regrouped] == [[0], [1, 2], [3], [4, 5]]
    # Masks of other sizes are made one size, and flat ones are fine.
    first = numbered(1, noise_mask=torch.zeros(1, 1, 8, 8))
    (joined,) = out(
        "RebatchLatents", latents=[first, numbered(1, noise_mask=torch.ones(4, 4) / 2)], batch_size=[2]
    )
    assert joined["noise_mask"].shape == (2, 1, 8, 8)
    assert joined["noise_mask"][1].unique().tolist() == [0.5]


PROMPT = {"1": {"class_type": "SaveLatent", "inputs": {}}}


@pytest.mark.parametrize("shape", [(2, 4, 3, 5), (1, 16, 3, 2, 2)])
def test_file_round_trip(app: App, run: Out, out: Out, shape: tuple[int, ...]) -> None:
    value = {"samples": torch.rand(shape).transpose(-1, -2), "noise_mask": 1}
    result = run(
        "SaveLatent", samples=value, filename_prefix="x/a", prompt=PROMPT, extra_pnginfo={"workflow": [1]}
    )
    assert result.values == (value,)
    assert result.ui == {"latents": [{"filename": "a_00001_.latent", "subfolder": "x", "type": "output"}]}
    with safe_open(app.folders.output / "x" / "a_00001_.latent", "pt") as file:
        assert sorted(file.keys()) == ["latent_format_version_0", "latent_tensor"]
        metadata = file.metadata()
    assert {key: json.loads(text) for key, text in metadata.items()} == {"prompt": PROMPT, "workflow": [1]}
    loaded = out("LoadLatent", latent="x/a_00001_.latent [output]")
    assert torch.equal(loaded["samples"], value["samples"])
    assert loaded.keys() == {"samples"}
    run("SaveLatent", samples=value, filename_prefix="x/a")
    assert (app.folders.output / "x" / "a_00002_.latent").is_file()


def test_old_and_half_files(app: App, out: Out) -> None:
    save_file({"latent_tensor": torch.ones(1, 4, 2, 2).half()}, app.folders.input / "old.latent")
    loaded = out("LoadLatent", latent="old.latent")["samples"]
    assert loaded.dtype == torch.float32
    assert torch.allclose(loaded, torch.tensor(1 / 0.18215))


def test_what_is_listed_and_validated(app: App) -> None:
    node = app.nodes["LoadLatent"]
    for name in ("b.latent", "a.latent", "c.png"):
        (app.folders.input / name).write_bytes(b"")
    assert node.info()["input"]["required"]["latent"][0] == ["a.latent", "b.latent"]

    def call(method: Any, name: str | None) -> Any:
        return node.call(None, method, {"latent": name}, node.live_inputs({"latent": name}), {})

    assert call("validate", "a.latent") is True
    assert call("validate", None) is True
    assert call("validate", "../a.latent") == "Invalid latent file: ../a.latent"
    assert call("validate", "d.latent") == "Invalid latent file: d.latent"
    before = call("fingerprint", "a.latent")
    (app.folders.input / "a.latent").write_bytes(b"x")
    assert call("fingerprint", "a.latent") != before
    assert call("fingerprint", None) != call("fingerprint", None)


class Evil:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("unpickled",))


def test_hostile_files(app: App, out: Out) -> None:
    whole = app.folders.input / "whole.latent"
    save_file({"latent_tensor": torch.ones(1, 4, 8, 8)}, whole)
    header = b'{"latent_tensor":{"dtype":"F32","shape":[1,4,9999,9999],"data_offsets":[0,16]}}'
    contents = {
        "empty": b"",
        "text": b"hello" * 100,
        "pickle": pickle.dumps(Evil()),
        "cut": whole.read_bytes()[:-100],
        "huge": struct.pack("<Q", 2**62) + b"{}",
        "lies": struct.pack("<Q", len(header)) + header + bytes(16),
    }
    for name, content in contents.items():
        (app.folders.input / f"{name}.latent").write_bytes(content)
        with pytest.raises(ModelFileError, match=rf"^{name}\.latent: expected a latent"):
            out("LoadLatent", latent=f"{name}.latent")
    save_file({"weight": torch.ones(3)}, app.folders.input / "model.latent")
    with pytest.raises(ModelFileError, match=r"model\.latent.*found a file with weight"):
        out("LoadLatent", latent="model.latent")
    for shape in ((3,), (1, 4, 1, 1, 8, 8)):
        save_file({"latent_tensor": torch.ones(shape)}, app.folders.input / "flat.latent")
        found = re.escape(f"a tensor of the shape {list(shape)}, not [batch, channels, ...]")
        with pytest.raises(ModelFileError, match=rf"flat\.latent.*{found}"):
            out("LoadLatent", latent="flat.latent")


def test_output_pictures_are_loaded(app: App, run: Out, out: Out) -> None:
    image = torch.rand(1, 4, 5, 3)
    run("SaveImage", images=image, filename_prefix="a")
    loaded, mask = out("LoadImageOutput", image="a_00001_.png [output]")
    assert (loaded - image).abs().max() < 1 / 255
    assert mask.shape == (1, 64, 64)
    node = app.nodes["LoadImageOutput"]
    values = {"image": "../a.png [output]"}
    assert "Invalid image file" in node.call(None, "validate", values, node.live_inputs(values), {})
