"""Nodes that turn, cut and join latents. Only `samples` change; a mask stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfyk import io

from comfyk_core_nodes.latents.arithmetic import AXES, concatenate, cut, cut_to_batch
from comfyk_core_nodes.latents.video import replace_frames
from comfyk_core_nodes.nodes.image.orientation import FLIPS, ROTATIONS
from comfyk_core_nodes.nodes.latent.size_and_place import PIXELS
from comfyk_core_nodes.nodes.limits import MAX_RESOLUTION

if TYPE_CHECKING:
    from torch import Tensor

Latent = dict[str, Any]

_MODULE = "comfy_extras.nodes_latent"
_ADVANCED = "model/latent/advanced"
_TRANSFORM = "model/latent/transform"


class LatentRotate(io.ComfyNode):
    """Turns clockwise."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentRotate",
            display_name="Rotate Latent",
            category=_TRANSFORM,
            description="Turns latents clockwise.",
            v1_form=True,
            inputs=[io.Latent.Input("samples"), io.Combo.Input("rotation", options=tuple(ROTATIONS))],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, rotation: str) -> io.NodeOutput:
        turned = samples["samples"].rot90(ROTATIONS[rotation], (-1, -2))
        return io.NodeOutput({**samples, "samples": turned})


class LatentFlip(io.ComfyNode):
    """Mirrors top and bottom, or left and right."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentFlip",
            display_name="Flip Latent",
            category=_TRANSFORM,
            description="Mirrors latents.",
            search_aliases=["mirror latent"],
            v1_form=True,
            inputs=[io.Latent.Input("samples"), io.Combo.Input("flip_method", options=tuple(FLIPS))],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, flip_method: str) -> io.NodeOutput:
        return io.NodeOutput({**samples, "samples": samples["samples"].flip(FLIPS[flip_method])})


class LatentCrop(io.ComfyNode):
    """Cuts out a rectangle, in pixels of the picture; it begins at least 64 pixels before the far edges."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentCrop",
            display_name="Crop Latent",
            category=_TRANSFORM,
            description="Cuts a rectangle out of latents.",
            search_aliases=["trim latent", "cut latent"],
            v1_form=True,
            inputs=[
                io.Latent.Input("samples"),
                io.Int.Input("width", default=512, min=64, max=MAX_RESOLUTION, step=8),
                io.Int.Input("height", default=512, min=64, max=MAX_RESOLUTION, step=8),
                io.Int.Input("x", default=0, min=0, max=MAX_RESOLUTION, step=8),
                io.Int.Input("y", default=0, min=0, max=MAX_RESOLUTION, step=8),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, width: int, height: int, x: int, y: int) -> io.NodeOutput:
        latent: Tensor = samples["samples"]
        left = max(0, min(x // PIXELS, latent.shape[-1] - 8))
        top = max(0, min(y // PIXELS, latent.shape[-2] - 8))
        cropped = latent[..., top : top + height // PIXELS, left : left + width // PIXELS]
        return io.NodeOutput({**samples, "samples": cropped})


class LatentConcat(io.ComfyNode):
    """Puts latents side by side; `-x`, `-y` and `-t` put the second ones first."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentConcat",
            category=_ADVANCED,
            description="Puts latents beside or above each other, or videos one after the other.",
            search_aliases=["join latents", "stitch latents"],
            inputs=[
                io.Latent.Input("samples1"),
                io.Latent.Input("samples2"),
                io.Combo.Input("dim", options=tuple(sign + axis for axis in AXES for sign in ("", "-"))),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples1: Latent, samples2: Latent, dim: str) -> io.NodeOutput:
        joined = concatenate(samples1["samples"], samples2["samples"], dim)
        return io.NodeOutput({**samples1, "samples": joined})


class LatentCut(io.ComfyNode):
    """Takes columns, rows or frames out of latents; sizes are the latent's own."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentCut",
            category=_ADVANCED,
            description="Takes columns, rows or frames out of latents. A negative index counts from the end.",
            search_aliases=["crop latent", "slice latent", "extract region"],
            inputs=[
                io.Latent.Input("samples"),
                io.Combo.Input("dim", options=tuple(AXES)),
                io.Int.Input("index", default=0, min=-MAX_RESOLUTION, max=MAX_RESOLUTION, step=1),
                io.Int.Input("amount", default=1, min=1, max=MAX_RESOLUTION, step=1),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, dim: str, index: int, amount: int) -> io.NodeOutput:
        return io.NodeOutput({**samples, "samples": cut(samples["samples"], dim, index, amount)})


class LatentCutToBatch(io.ComfyNode):
    """Makes a batch of the frames, columns or rows of latents."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentCutToBatch",
            category=_ADVANCED,
            description="Makes a batch of the slices of latents, such as the frames of a video.",
            search_aliases=["slice to batch", "split latent", "tile latent"],
            inputs=[
                io.Latent.Input("samples"),
                io.Combo.Input("dim", options=("t", "x", "y")),
                io.Int.Input("slice_size", default=1, min=1, max=MAX_RESOLUTION, step=1),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, dim: str, slice_size: int) -> io.NodeOutput:
        return io.NodeOutput({**samples, "samples": cut_to_batch(samples["samples"], dim, slice_size)})


class ReplaceVideoLatentFrames(io.ComfyNode):
    """Puts frames into a video latent `[B, C, T, h, w]`; what else is in the dict comes from the source."""

    RELATIVE_PYTHON_MODULE = _MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReplaceVideoLatentFrames",
            display_name="Replace Video Latent Frames",
            category="model/latent/batch",
            description="Puts the frames of one video latent in the place of some of another's.",
            inputs=[
                io.Latent.Input("destination", tooltip="The video."),
                io.Latent.Input(
                    "source",
                    optional=True,
                    tooltip="The new frames. Without them, or if they do not fit, the video stays as it is.",
                ),
                io.Int.Input(
                    "index",
                    default=0,
                    min=-MAX_RESOLUTION,
                    max=MAX_RESOLUTION,
                    step=1,
                    tooltip="The first frame of the latent to be replaced; -1 is the last.",
                ),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, destination: Latent, index: int, source: Latent | None = None) -> io.NodeOutput:
        if source is None:
            return io.NodeOutput(destination)
        replaced = replace_frames(destination["samples"], source["samples"], index)
        return io.NodeOutput(destination if replaced is None else {**source, "samples": replaced})


NODES = (
    LatentRotate,
    LatentFlip,
    LatentCrop,
    LatentConcat,
    LatentCut,
    LatentCutToBatch,
    ReplaceVideoLatentFrames,
)
