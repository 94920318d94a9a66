"""Nodes that load checkpoints, and the networks of one in files of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyk import current_app, io
from comfyk.folders import walk

from comfyk_core_nodes.nodes.loaders.model_files import (
    ModelFileNode,
    embedding_folders,
    model_names,
    model_path,
)

if TYPE_CHECKING:
    from comfyk_core_nodes.text.clip import CLIP

IMAGE_TAES = ("taesd", "taesdxl", "taesd3", "taef1", "taef2")
VIDEO_TAES = ("taehv", "lighttaew2_2", "lighttaew2_1", "lighttaehy1_5", "taeltx_2", "taeh3")
PIXEL_SPACE = "pixel_space"
CLIP_TYPES = (
    "stable_diffusion",
    "stable_cascade",
    "sd3",
    "stable_audio",
    "mochi",
    "ltxv",
    "pixart",
    "cosmos",
    "lumina2",
    "wan",
    "hidream",
    "chroma",
    "ace",
    "omnigen2",
    "qwen_image",
    "hunyuan_image",
    "flux2",
    "ovis",
    "longcat_image",
    "cogvideox",
    "lens",
    "pixeldit",
    "ideogram4",
    "boogu",
    "krea2",
    "joyimage",
    "mage",
    "minimax",
)
DUAL_CLIP_TYPES = (
    "sdxl",
    "sd3",
    "flux",
    "hunyuan_video",
    "hidream",
    "hunyuan_image",
    "hunyuan_video_15",
    "kandinsky5",
    "kandinsky5_image",
    "ltxv",
    "newbie",
    "ace",
)


def diffusers_folders() -> list[str]:
    """Models of diffusers' layout: folders with a `model_index.json`, as paths below `models/diffusers`."""
    return sorted(
        Path(folder).relative_to(root).as_posix()
        for root in current_app().folders.paths("diffusers")
        for folder, _, files in walk(root)
        if "model_index.json" in files
    )


def find_diffusers_folder(name: str) -> Path:
    """The folder of that name. Raises FileNotFoundError when none of `diffusers_folders` is called so."""
    for root in current_app().folders.paths("diffusers"):
        if name in diffusers_folders() and (root / name / "model_index.json").is_file():
            return root / name
    raise FileNotFoundError(f"there is no model of diffusers called {name!r} in models/diffusers")


def vae_names() -> list[str]:
    """The VAEs there are: files, TAESDs of which both halves are there, and pixels as they are."""
    folders = current_app().folders
    approximate = folders.filenames("vae_approx")
    return [
        *folders.filenames("vae"),
        *(name for name in approximate if name.startswith(VIDEO_TAES)),
        *(name for name in IMAGE_TAES if all(_taesd_half(name, half) for half in ("encoder", "decoder"))),
        PIXEL_SPACE,
    ]


def _taesd_half(name: str, half: str) -> str | None:
    start = f"{name}_{half}."
    return next(
        (file for file in current_app().folders.filenames("vae_approx") if file.startswith(start)), None
    )


def _vae_files(name: str) -> list[Path]:
    """The files of one of `vae_names`. Raises FileNotFoundError."""
    if name == PIXEL_SPACE:
        return []
    if name in IMAGE_TAES:
        halves = ((half, _taesd_half(name, half)) for half in ("encoder", "decoder"))
        return [model_path("vae_approx", file or f"{name}_{half}") for half, file in halves]
    return [model_path("vae_approx" if name.startswith(VIDEO_TAES) else "vae", name)]


def _load_clip(names: Sequence[str], device: str) -> CLIP:
    import torch

    from comfyk_core_nodes.families.checkpoint import load_clip

    clip = load_clip([model_path("text_encoders", name) for name in names], embedding_folders())
    if device == "cpu":
        clip.patcher.load_device = clip.patcher.offload_device = torch.device("cpu")
    return clip


class CheckpointLoaderSimple(ModelFileNode):
    """A part that the file does not hold is None."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CheckpointLoaderSimple",
            display_name="Load Checkpoint",
            category="model/loaders",
            description="Loads the diffusion model, the text encoders and the VAE of a checkpoint.",
            search_aliases=["load model", "checkpoint", "model loader", "load checkpoint", "ckpt", "model"],
            v1_form=True,
            inputs=[
                io.Combo.Input(
                    "ckpt_name", options=model_names("checkpoints"), tooltip="A file in models/checkpoints."
                )
            ],
            outputs=[
                io.Model.Output(tooltip="What denoises latents."),
                io.Clip.Output(tooltip="What turns prompts into conditionings."),
                io.Vae.Output(tooltip="What turns pictures into latents and back."),
            ],
        )

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        from comfyk_core_nodes.families.checkpoint import load_checkpoint

        found = load_checkpoint(model_path("checkpoints", ckpt_name), embedding_folders())
        return io.NodeOutput(found.model, found.clip, found.vae)


class CheckpointLoader(ModelFileNode):
    """Of the configuration, v-prediction and clip skip count; everything else is read from the checkpoint."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CheckpointLoader",
            display_name="Load Checkpoint With Config (DEPRECATED)",
            category="model/loaders",
            description=(
                "Loads a checkpoint that was trained with a configuration file of the original repository."
            ),
            search_aliases=["load model", "model loader"],
            is_deprecated=True,
            v1_form=True,
            inputs=[
                io.Combo.Input("config_name", options=model_names("configs")),
                io.Combo.Input("ckpt_name", options=model_names("checkpoints")),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, config_name: str, ckpt_name: str) -> io.NodeOutput:
        from comfyk_core_nodes.families.checkpoint import load_checkpoint
        from comfyk_core_nodes.families.sd.original_config import apply_config

        found = load_checkpoint(model_path("checkpoints", ckpt_name), embedding_folders())
        model, clip = apply_config(model_path("configs", config_name), found.model, found.clip)
        return io.NodeOutput(model, clip, found.vae)


class unCLIPCheckpointLoader(ModelFileNode):
    """A part that the file does not hold is None."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="unCLIPCheckpointLoader",
            display_name="Load unCLIP Checkpoint",
            category="model/loaders",
            description="Loads an unCLIP checkpoint, which also holds a CLIP vision model.",
            v1_form=True,
            inputs=[io.Combo.Input("ckpt_name", options=model_names("checkpoints"))],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output(), io.ClipVision.Output()],
        )

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        from comfyk_core_nodes.families.checkpoint import load_checkpoint
        from comfyk_core_nodes.vision.clip_vision import clip_vision_from_state

        found = load_checkpoint(model_path("checkpoints", ckpt_name), embedding_folders())
        vision = clip_vision_from_state(found.clip_vision_state) if found.clip_vision_state else None
        return io.NodeOutput(found.model, found.clip, found.vae, vision)


class DiffusersLoader(ModelFileNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusersLoader",
            display_name="Load Diffusers Model (DEPRECATED)",
            category="model/loaders",
            description=("Loads a model in diffusers' layout: a folder with one for each of its networks."),
            search_aliases=["load diffusers model"],
            is_deprecated=True,
            v1_form=True,
            inputs=[io.Combo.Input("model_path", options=diffusers_folders)],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def model_files(cls, model_path: str | None = None, **_: Any) -> Iterable[Path]:
        with suppress(FileNotFoundError):
            folder = None if model_path is None else find_diffusers_folder(model_path)
            yield from () if folder is None else sorted(path for path in folder.rglob("*") if path.is_file())

    @classmethod
    def execute(cls, model_path: str) -> io.NodeOutput:
        from comfyk_core_nodes.families.diffusers_folder import load_diffusers_folder

        found = load_diffusers_folder(find_diffusers_folder(model_path), embedding_folders())
        return io.NodeOutput(found.model, found.clip, found.vae)


class UNETLoader(ModelFileNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UNETLoader",
            display_name="Load Diffusion Model",
            category="model/loaders",
            description="Loads a diffusion model from a file of its own.",
            v1_form=True,
            inputs=[
                io.Combo.Input("unet_name", options=model_names("diffusion_models")),
                io.Combo.Input(
                    "weight_dtype",
                    options=("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"),
                    advanced=True,
                    tooltip="What the weights are kept in; the float8 ones take half the memory of float16.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, unet_name: str, weight_dtype: str) -> io.NodeOutput:
        import torch

        from comfyk_core_nodes.families.checkpoint import load_diffusion_model

        dtypes = {
            "fp8_e4m3fn": torch.float8_e4m3fn,
            "fp8_e4m3fn_fast": torch.float8_e4m3fn,
            "fp8_e5m2": torch.float8_e5m2,
        }
        options = {"dtype": dtypes[weight_dtype]} if weight_dtype in dtypes else {}
        return io.NodeOutput(load_diffusion_model(model_path("diffusion_models", unet_name), options))


class CLIPLoader(ModelFileNode):
    """Which encoder it is, is read from the file; `type` is there for workflows that carry it."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CLIPLoader",
            display_name="Load CLIP",
            category="model/loaders",
            description=(
                "Loads one text encoder from a file of its own. Stable Diffusion 1.x takes "
                "CLIP-L, 2.x OpenCLIP-H, the SDXL refiner OpenCLIP-G."
            ),
            v1_form=True,
            inputs=[
                io.Combo.Input("clip_name", options=model_names("text_encoders")),
                io.Combo.Input("type", options=CLIP_TYPES),
                io.Combo.Input(
                    "device",
                    options=("default", "cpu"),
                    optional=True,
                    advanced=True,
                    tooltip="Where the text encoder computes.",
                ),
            ],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, clip_name: str, type: str, device: str = "default") -> io.NodeOutput:
        return io.NodeOutput(_load_clip([clip_name], device))


class DualCLIPLoader(ModelFileNode):
    """Which encoders they are, is read from the files."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DualCLIPLoader",
            display_name="Load CLIP (Dual)",
            category="model/loaders",
            description=(
                "Loads two text encoders from files of their own. SDXL takes CLIP-L and OpenCLIP-G."
            ),
            v1_form=True,
            inputs=[
                io.Combo.Input("clip_name1", options=model_names("text_encoders")),
                io.Combo.Input("clip_name2", options=model_names("text_encoders")),
                io.Combo.Input("type", options=DUAL_CLIP_TYPES),
                io.Combo.Input(
                    "device",
                    options=("default", "cpu"),
                    optional=True,
                    advanced=True,
                    tooltip="Where the text encoders compute.",
                ),
            ],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, clip_name1: str, clip_name2: str, type: str, device: str = "default") -> io.NodeOutput:
        return io.NodeOutput(_load_clip([clip_name1, clip_name2], device))


class VAELoader(ModelFileNode):
    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VAELoader",
            display_name="Load VAE",
            category="model/loaders",
            description=(
                "Loads a VAE from a file of its own. The TAESD ones are small and quick; "
                "pixel_space takes pictures as they are."
            ),
            v1_form=True,
            inputs=[io.Combo.Input("vae_name", options=vae_names)],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def model_files(cls, vae_name: str | None = None, **_: Any) -> Iterable[Path]:
        with suppress(FileNotFoundError):
            yield from _vae_files(vae_name or PIXEL_SPACE)

    @classmethod
    def execute(cls, vae_name: str) -> io.NodeOutput:
        from comfyk_core_nodes.families.checkpoint import load_vae
        from comfyk_core_nodes.vae.small import load_pixel_space, load_taesd

        if vae_name == PIXEL_SPACE:
            return io.NodeOutput(load_pixel_space())
        if vae_name in IMAGE_TAES:
            return io.NodeOutput(load_taesd(vae_name, *_vae_files(vae_name)))
        return io.NodeOutput(load_vae(*_vae_files(vae_name)))


NODES = (
    CheckpointLoaderSimple,
    CheckpointLoader,
    unCLIPCheckpointLoader,
    DiffusersLoader,
    UNETLoader,
    CLIPLoader,
    DualCLIPLoader,
    VAELoader,
)
