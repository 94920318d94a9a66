"""Another file under the same name is another model: what was made of the old one is not taken again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk import io
from comfyk.app import App
from comfyk.jobs.model import JobStatus
from comfyk_core_nodes.nodes import NODES
from PIL import Image
from safetensors.torch import load_file, save_file

Graph = dict[str, Any]
Make = Callable[..., list[Image.Image]]

FACTOR = 3.0


def names_model_files(node: type[io.ComfyNode]) -> bool:
    """Whether an input lists what is in a folder of models."""
    options = [getattr(each, "options", None) for each in node.GET_SCHEMA().inputs]
    return node.__name__.find("Load") >= 0 and any(
        callable(option) and "image" not in str(option) and "latent_names" not in str(option)
        for option in options
    )


LOADERS = [node for node in NODES if names_model_files(node)]
NO_FILE = {"default", "cpu"}


def test_there_are_loaders() -> None:
    assert {"CheckpointLoaderSimple", "LoraLoader", "VAELoader", "ControlNetLoader", "GLIGENLoader"} <= {
        node.GET_SCHEMA().node_id for node in LOADERS
    }


KINDS = {
    "ckpt_name": "checkpoints", "config_name": "configs", "lora_name": "loras", "unet_name": "diffusion_models",
    "clip_name": "text_encoders", "clip_name1": "text_encoders", "clip_name2": "text_encoders", "vae_name": "vae",
    "control_net_name": "controlnet", "gligen_name": "gligen", "style_model_name": "style_models",
    "model_name": "upscale_models",
}  # fmt: skip


@pytest.mark.parametrize("node", LOADERS, ids=lambda node: node.GET_SCHEMA().node_id)
def test_the_key_of_each_loader_follows_each_of_its_files(app: App, node: type[io.ComfyNode]) -> None:
    schema = node.GET_SCHEMA()
    definition = app.nodes[schema.node_id or ""]
    values: Graph = {}
    files: dict[str, Path] = {}
    for each in schema.inputs:
        if each.id == "model_path":
            values[each.id], files[each.id] = (
                "some",
                app.folders.models / "diffusers/some/unet/model.safetensors",
            )
            (app.folders.models / "diffusers/some").mkdir(parents=True)
            (app.folders.models / "diffusers/some/model_index.json").write_text("{}")
        elif each.id in KINDS:
            kind = "clip_vision" if schema.node_id == "CLIPVisionLoader" else KINDS[each.id]
            values[each.id] = f"{each.id}.yaml" if kind == "configs" else f"{each.id}.safetensors"
            files[each.id] = app.folders.paths(kind)[0] / values[each.id]
    assert files
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"old")

    def key() -> Any:
        return definition.call(definition.cls, "fingerprint", values, definition.live_inputs(values), {})

    for path in files.values():
        before = key()
        assert before == key()
        times = path.stat()
        new = path.with_name("new")
        new.write_bytes(b"new")
        os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))  # as an archive unpacks it
        new.replace(path)
        replaced = key()
        assert replaced != before
        path.write_bytes(b"longer")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        written = key()
        assert written != replaced
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
        assert key() != written


@pytest.mark.parametrize("name", ["taesd", "lighttaew2_1.safetensors"])
def test_the_key_of_a_small_vae(app: App, name: str) -> None:
    """One that is two files, and one among them that is not in `models/vae`."""
    folder = app.folders.paths("vae_approx")[0]
    folder.mkdir(parents=True)
    files = [folder / f"{name}_{half}.safetensors" for half in ("encoder", "decoder")]
    files = [folder / name] if name.endswith(".safetensors") else files
    for path in files:
        path.write_bytes(b"old")
    definition = app.nodes["VAELoader"]

    def key() -> Any:
        values = {"vae_name": name}
        return definition.call(definition.cls, "fingerprint", values, definition.live_inputs(values), {})

    for path in files:
        before = key()
        path.write_bytes(b"another")
        assert key() != before


@pytest.fixture
def models(tmp_path_factory: pytest.TempPathFactory, states: Callable[[str], Any]) -> Path:
    """What the fixture `studio` has, of which this test may change what it likes."""
    root = tmp_path_factory.mktemp("models")

    def put(name: str, state: dict[str, torch.Tensor]) -> None:
        path = root / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({key: value.contiguous().clone() for key, value in state.items()}, path)

    put("checkpoints/sd15", states("sd1"))
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    generator = torch.Generator().manual_seed(1)
    put(
        "loras/style",
        {
            f"{stem}.lora_up.weight": torch.randn(32, 4, generator=generator),
            f"{stem}.lora_down.weight": torch.randn(4, 32, generator=generator),
        },
    )
    put("embeddings/word", {"emb_params": torch.randn(2, 64, generator=generator)})
    return root


def change(path: Path) -> None:
    """Put a file of other weights in the place of one."""
    state = {key: value * FACTOR for key, value in load_file(path).items()}
    save_file(state, path.with_name("new"))
    path.with_name("new").replace(path)


@pytest.fixture
def pictures(app: App, models: Path) -> Callable[..., list[bytes]]:
    """Run a graph, do something, run it again ...: the pictures."""
    app.folders.models.symlink_to(models)

    async def run(graph: Graph, between: tuple[Callable[[], Any], ...]) -> list[bytes]:
        drawn = []
        async with app:
            for what in (None, *between):
                if what is not None:
                    what()
                submission = await app.jobs.submit(graph)
                outcome = await app.jobs.wait(submission.job.id)
                assert outcome.status is JobStatus.COMPLETED, outcome.error
                (image,) = outcome.outputs["6"]["images"]
                drawn.append(Image.open(app.folders.output / image["filename"]).tobytes())
        return drawn

    return lambda graph, *between: asyncio.run(run(graph, between))


def node(name: str, **inputs: Any) -> Graph:
    return {"class_type": name, "inputs": inputs}


def txt2img(text: Any = "a house", model: Any = ("1", 0), **more: Graph) -> Graph:
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name="sd15.safetensors"),
        "2": node("CLIPTextEncode", clip=["1", 1], text=text),
        "3": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "4": node(
            "KSampler", model=list(model), positive=["2", 0], negative=["2", 0], latent_image=["3", 0],
            seed=1, steps=2, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=1.0,
        ),
        "5": node("VAEDecode", samples=["4", 0], vae=["1", 2]),
        "6": node("SaveImage", images=["5", 0], filename_prefix="a"),
        **more,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["checkpoints/sd15", "loras/style", "embeddings/word"])
def test_the_next_picture_is_the_new_file_s(
    models: Path, pictures: Callable[..., list[bytes]], name: str
) -> None:
    lora = node("LoraLoaderModelOnly", model=["1", 0], lora_name="style.safetensors", strength_model=1.0)
    graph = txt2img("embedding:word house", ("7", 0), **{"7": lora})
    same, old, new = pictures(graph, lambda: None, lambda: change(models / f"{name}.safetensors"))
    assert same == old
    assert new != old


@pytest.mark.parametrize("linked", [False, True])
def test_embeddings_that_come_and_go(
    models: Path, pictures: Callable[..., list[bytes]], linked: bool
) -> None:
    path = models / "embeddings/word.safetensors"
    text = "embedding:word house"
    graph = txt2img(
        ["7", 0] if linked else text, **({"7": node("PrimitiveString", value=text)} if linked else {})
    )
    away = path.with_name("away")
    there, gone, back = pictures(graph, lambda: path.rename(away), lambda: away.rename(path))
    assert gone != there
    assert back == there
