"""Every node that reads weights, given files that are damaged, hostile, or of something else.

The error names the file, what was expected and what was found, and no code of a file is run.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk.app import App
from comfyk_core_nodes.families.lora import LoraError
from comfyk_core_nodes.weights.files import ModelFileError
from safetensors.torch import save
from torch import Tensor

pytestmark = pytest.mark.usefixtures("in_a_job")

Out = Callable[..., Any]

LOADERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "CheckpointLoaderSimple": ("checkpoints", "ckpt_name", {}),
    "CheckpointLoader": ("checkpoints", "ckpt_name", {"config_name": "v1.yaml"}),
    "unCLIPCheckpointLoader": ("checkpoints", "ckpt_name", {}),
    "UNETLoader": ("diffusion_models", "unet_name", {"weight_dtype": "default"}),
    "CLIPLoader": ("text_encoders", "clip_name", {"type": "stable_diffusion"}),
    "DualCLIPLoader": ("text_encoders", "clip_name1", {"clip_name2": "odd.safetensors", "type": "sdxl"}),
    "VAELoader": ("vae", "vae_name", {}),
    "ControlNetLoader": ("controlnet", "control_net_name", {}),
    "DiffControlNetLoader": ("controlnet", "control_net_name", {"model": None}),
    "CLIPVisionLoader": ("clip_vision", "clip_name", {}),
    "StyleModelLoader": ("style_models", "style_model_name", {}),
    "GLIGENLoader": ("gligen", "gligen_name", {}),
    "UpscaleModelLoader": ("upscale_models", "model_name", {}),
    "LoraLoader": (
        "loras",
        "lora_name",
        {"model": None, "clip": None, "strength_model": 1.0, "strength_clip": 1.0},
    ),
    "LoraLoaderModelOnly": ("loras", "lora_name", {"model": None, "strength_model": 1.0}),
}

WHOLE = save({"a": torch.zeros(64), "b": torch.zeros(3)})
CYCLE: list[Any] = []
CYCLE.append(CYCLE)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


def header(entries: object) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


BAD = {
    "empty.safetensors": b"",
    "page.safetensors": b"<!DOCTYPE html><html>404</html>",
    "pointer.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "cut.safetensors": WHOLE[:-20],
    "cut_in_header.safetensors": WHOLE[:30],
    "bomb.safetensors": struct.pack("<Q", 2**63) + b"{}",
    "overlap.safetensors": header(
        {name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in "ab"}
    )
    + bytes(16),
    "odd.safetensors": WHOLE,
    "nothing.safetensors": save({}),
    "named_wrongly.safetensors": pickle.dumps({"a": 1}, protocol=2) + bytes(600),
    "named_wrongly.ckpt": WHOLE,
    "empty.pt": b"",
    "junk.pth": bytes(range(256)),
    "zip.pt": b"PK\x03\x04" + bytes(100),
    "numbers.ckpt": pickle.dumps({"a": 1}, protocol=2),
    "deep.pt": pickle.dumps(CYCLE, protocol=2),
}


@pytest.fixture
def give(app: App, out: Out, put: Callable[..., str], states: Callable[[str], Any]) -> Callable[..., Any]:
    """`give("VAELoader", "bad.safetensors", content)`: put the file where the node looks, and run it."""

    def run(node: str, name: str, content: bytes | Callable[[Path], None] | None) -> Any:
        kind, argument, more = LOADERS[node]
        folder = app.folders.paths(kind)[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "odd.safetensors").write_bytes(WHOLE)
        if callable(content):
            content(folder / name)
        elif content is not None:
            (folder / name).write_bytes(content)
        config = app.folders.paths("configs")[0] / "v1.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text("model: {params: {}}")
        values = {argument: name, **more}
        if node.startswith("Lora"):
            values["model"] = model()
        return out(node, **values)

    @cache
    def model() -> Any:
        name = put("diffusion_models", "tiny.safetensors", unet_of(states("sd1")))
        return out("UNETLoader", unet_name=name, weight_dtype="default")

    return run


def unet_of(checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "model.diffusion_model."
    return {key.removeprefix(prefix): value for key, value in checkpoint.items() if key.startswith(prefix)}


def test_every_node_that_reads_weights_is_here(app: App) -> None:
    """Those that offer the files of some folder of models."""
    for kind in app.folders.kinds:
        folder = app.folders.paths(kind)[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "marker.safetensors").write_bytes(WHOLE)
    reading = {
        name
        for name in app.nodes.names()
        for values in app.nodes[name].info()["input"].get("required", {}).values()
        if "marker.safetensors" in (values[1].get("options", ()) if values[0] == "COMBO" else values[0])
    }
    assert reading == set(LOADERS)


@pytest.mark.parametrize("node", LOADERS)
def test_bad_files(give: Callable[..., Any], node: str) -> None:
    for name, content in BAD.items():
        with pytest.raises((ModelFileError, LoraError)) as caught:
            give(node, name, content)
        said = str(caught.value)
        assert name in said or "odd.safetensors" in said, (name, said)
        assert "expected" in said and "found" in said, (name, said)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_good_file_in_the_wrong_folder(give: Callable[..., Any], states: Any, family: str) -> None:
    """The message says what it is, and where it belongs."""
    whole = {key: value.detach().clone().contiguous() for key, value in states(family).items()}
    vae = {k.removeprefix("first_stage_model."): v for k, v in whole.items() if k.startswith("first_stage")}
    for state, said in (
        (whole, r"a whole checkpoint of Stable Diffusion \(put it in models/checkpoints\)"),
        (unet_of(whole), r"a UNet alone \(put it in models/diffusion_models\)"),
        (vae, r"a VAE \(put it in models/vae\)"),
    ):
        for node in ("UpscaleModelLoader", "ControlNetLoader", "StyleModelLoader"):
            with pytest.raises(ModelFileError, match=rf"wrong\.safetensors: expected .*, found {said}"):
                give(node, "wrong.safetensors", save(state))
        expected = r"expected a LoRA for Stable Diffusion 1\.x"
        with pytest.raises(LoraError, match=rf"wrong\.safetensors: {expected}, found {said}"):
            give("LoraLoaderModelOnly", "wrong.safetensors", save(state))


@pytest.mark.parametrize("node", LOADERS)
@pytest.mark.parametrize("old", [False, True])
def test_nothing_is_unpickled(give: Callable[..., Any], tmp_path: Path, node: str, old: bool) -> None:
    sprung = tmp_path / "sprung"

    def trap(path: Path) -> None:
        state = {"state_dict": {"a": torch.zeros(1)}, "b": Trap(sprung)}
        torch.save(state, path, _use_new_zipfile_serialization=not old)

    for name in ("trap.ckpt", "trap.pt", "trap.pth", "trap.bin", "trap.safetensors"):
        with pytest.raises((ModelFileError, FileNotFoundError), match=r"trap\."):
            give(node, name, trap)
    assert not sprung.exists()


@pytest.mark.parametrize("node", LOADERS)
def test_names_stay_in_their_folder(app: App, give: Callable[..., Any], node: str) -> None:
    outside = app.folders.base / "outside.safetensors"
    outside.write_bytes(WHOLE)
    for name in ("../../outside.safetensors", str(outside), "a\0b.safetensors"):
        with pytest.raises(FileNotFoundError, match="there is no model"):
            give(node, name, None)


NETWORKS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture
def diffusers_folder(app: App, states: Callable[[str], Any]) -> Path:
    """A folder of diffusers' layout with files of the original layout, which is read as well."""
    prefixes = {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "cond_stage_model.transformer.",
    }
    folder = app.folders.paths("diffusers")[0] / "tiny"
    for part, prefix in prefixes.items():
        (folder / part).mkdir(parents=True)
        own = {k.removeprefix(prefix): v for k, v in states("sd1").items() if k.startswith(prefix)}
        (folder / part / f"{NETWORKS[part]}.safetensors").write_bytes(save(own))
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.mark.parametrize("part", NETWORKS)
def test_a_diffusers_folder(out: Out, diffusers_folder: Path, tmp_path: Path, part: str) -> None:
    assert None not in out("DiffusersLoader", model_path="tiny")
    good = diffusers_folder / part / f"{NETWORKS[part]}.safetensors"
    for name, content in BAD.items():
        if name.endswith(".safetensors"):
            good.write_bytes(content)
            with pytest.raises(ModelFileError, match=rf"{good.name}: expected .* found"):
                out("DiffusersLoader", model_path="tiny")
    good.unlink()
    pickled = good.with_name("pytorch_model.bin" if part == "text_encoder" else f"{good.stem}.bin")
    torch.save({"a": torch.zeros(1), "b": Trap(tmp_path / "sprung")}, pickled)
    with pytest.raises(ModelFileError, match="only running code could build"):
        out("DiffusersLoader", model_path="tiny")
    assert not (tmp_path / "sprung").exists()
    for name in ("..", "../diffusers/tiny", str(diffusers_folder), "tiny/unet", "a\0b"):
        with pytest.raises(FileNotFoundError, match="there is no model of diffusers"):
            out("DiffusersLoader", model_path=name)


@pytest.mark.parametrize("name", BAD)
def test_a_latent(app: App, out: Out, name: str) -> None:
    (app.folders.input / f"{name}.latent").write_bytes(BAD[name])
    with pytest.raises(ValueError, match=rf"{name}\.latent"):
        out("LoadLatent", latent=f"{name}.latent")


@pytest.mark.parametrize(
    "content", ["", "[1]", "model: 1", "model: {params: [1]}", "a: *b", "\0", "a: !!python/name:os.system"]
)
def test_a_configuration(app: App, out: Out, put: Callable[..., str], states: Any, content: str) -> None:
    put("checkpoints", "tiny.safetensors", states("sd1"))
    config = app.folders.paths("configs")[0] / "odd.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(content)
    with pytest.raises(ModelFileError, match=r"odd\.yaml: expected a configuration"):
        out("CheckpointLoader", config_name="odd.yaml", ckpt_name="tiny.safetensors")


def test_embeddings(
    app: App, out: Out, put: Callable[..., str], states: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad one is left out, as a word that nobody trained would be, and named in the log."""
    _, clip, _ = out("CheckpointLoaderSimple", ckpt_name=put("checkpoints", "t.safetensors", states("sd1")))
    folder = app.folders.paths("embeddings")[0]
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"string_to_param": {"*": torch.ones(1, 64)}, "x": Trap(tmp_path / "sprung")}, folder / "trap.pt"
    )
    ((plain, _),) = out("CLIPTextEncode", text="a  house", clip=clip)
    for name, content in {**BAD, "trap.pt": (folder / "trap.pt").read_bytes()}.items():
        (folder / name).write_bytes(content)
        if name == "odd.safetensors":  # which is one, of a vector called a
            continue
        caplog.clear()
        ((text, _),) = out("CLIPTextEncode", text=f"a embedding:{name} house", clip=clip)
        assert name in caplog.text, name
        assert "weights_only" not in caplog.text, caplog.text
        torch.testing.assert_close(text, plain)
    assert not (tmp_path / "sprung").exists()


def test_tensors_that_are_no_vectors(
    app: App, out: Out, put: Callable[..., str], states: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A number beside the vectors is passed over; a file without vectors is left out."""
    _, clip, _ = out("CheckpointLoaderSimple", ckpt_name=put("checkpoints", "t.safetensors", states("sd1")))
    ((plain, _),) = out("CLIPTextEncode", text="a  house", clip=clip)
    number, vectors, cube = torch.tensor(1.0), torch.ones(2, 64), torch.ones(1, 1, 64)
    odd: dict[str, Any] = {
        "number.safetensors": {"a": number},
        "cube.safetensors": {"a": cube},
        "own.pt": {"clip_l": number},
        "text.pt": {"clip_l": "no tensor"},
        "list.pt": [{"a": number}],
        "number.pt": number,
        "bundle.pt": {"bundle_emb.a.clip_l": number},
        "a1111.pt": {"string_to_param": {"*": number}},
    }
    for name, state in odd.items():
        caplog.clear()
        put("embeddings", name, state) if name.endswith(".safetensors") else torch.save(
            state, app.folders.paths("embeddings")[0] / name
        )
        ((text, _),) = out("CLIPTextEncode", text=f"a embedding:{name} house", clip=clip)
        assert f"{name} is left out: no vectors in it" in caplog.text, name
        torch.testing.assert_close(text, plain)
    put("embeddings", "good.safetensors", {"a_step": number, "b": vectors})
    caplog.clear()
    ((text, _),) = out("CLIPTextEncode", text="a embedding:good.safetensors house", clip=clip)
    assert "left out" not in caplog.text
    assert not torch.equal(text, plain)
