"""The io types that travel over links: images, latents, models and what guides them.

`Type` says what a value is in Python. Tensors are named in the docstrings only, so that declaring a node
costs no import of torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

from comfyk.io.base import ComfyTypeIO, comfytype


@comfytype(io_type="*")
class AnyType(ComfyTypeIO):
    """Goes with every type."""


@comfytype(io_type="IMAGE")
class Image(ComfyTypeIO):
    """A float tensor `[B, H, W, C]`, values 0 to 1, RGB or RGBA."""


@comfytype(io_type="MASK")
class Mask(ComfyTypeIO):
    """A float tensor `[B, H, W]`, values 0 to 1."""


@comfytype(io_type="LATENT")
class Latent(ComfyTypeIO):
    class LatentDict(TypedDict):
        samples: Any
        """A float tensor `[B, C, h, w]` (`[B, C, T, h, w]` for video)."""
        noise_mask: NotRequired[Any]
        """Where to sample: a float tensor `[B, 1, H, W]` or `[H, W]`."""
        batch_index: NotRequired[list[int]]
        """Which noise each item gets: its position in the batch that it came from."""
        type: NotRequired[str]
        """What kind of latent it is where that is not an image: `audio`, `hunyuan3dv2` ..."""

    Type = LatentDict


@comfytype(io_type="CONDITIONING")
class Conditioning(ComfyTypeIO):
    """A list of `[tensor [B, T, C], options]`; options are `pooled_output`, `area`, `mask` ..."""

    PooledDict = dict[str, Any]
    CondList = list[tuple[Any, dict[str, Any]]]
    Type = CondList


@comfytype(io_type="SAMPLER")
class Sampler(ComfyTypeIO):
    pass


@comfytype(io_type="SIGMAS")
class Sigmas(ComfyTypeIO):
    """A float tensor `[steps + 1]`, falling, usually down to 0."""


@comfytype(io_type="NOISE")
class Noise(ComfyTypeIO):
    pass


@comfytype(io_type="GUIDER")
class Guider(ComfyTypeIO):
    pass


@comfytype(io_type="CLIP")
class Clip(ComfyTypeIO):
    """A text encoder with its tokenizer."""


@comfytype(io_type="CONTROL_NET")
class ControlNet(ComfyTypeIO):
    pass


@comfytype(io_type="VAE")
class Vae(ComfyTypeIO):
    pass


@comfytype(io_type="MODEL")
class Model(ComfyTypeIO):
    """A diffusion model with the patches that a workflow put on it."""


@comfytype(io_type="MODEL_PATCH")
class ModelPatch(ComfyTypeIO):
    pass


@comfytype(io_type="BACKGROUND_REMOVAL")
class BackgroundRemoval(ComfyTypeIO):
    pass


@comfytype(io_type="CLIP_VISION")
class ClipVision(ComfyTypeIO):
    pass


@comfytype(io_type="CLIP_VISION_OUTPUT")
class ClipVisionOutput(ComfyTypeIO):
    pass


@comfytype(io_type="STYLE_MODEL")
class StyleModel(ComfyTypeIO):
    pass


@comfytype(io_type="GLIGEN")
class Gligen(ComfyTypeIO):
    pass


@comfytype(io_type="UPSCALE_MODEL")
class UpscaleModel(ComfyTypeIO):
    pass


@comfytype(io_type="LATENT_UPSCALE_MODEL")
class LatentUpscaleModel(ComfyTypeIO):
    pass


@comfytype(io_type="LORA_MODEL")
class LoraModel(ComfyTypeIO):
    Type = dict[str, Any]


@comfytype(io_type="LOSS_MAP")
class LossMap(ComfyTypeIO):
    class LossMapDict(TypedDict):
        loss: list[Any]

    Type = LossMapDict


@comfytype(io_type="WAN_CAMERA_EMBEDDING")
class WanCameraEmbedding(ComfyTypeIO):
    pass


@comfytype(io_type="HOOKS")
class Hooks(ComfyTypeIO):
    pass


@comfytype(io_type="HOOK_KEYFRAMES")
class HookKeyframes(ComfyTypeIO):
    pass


@comfytype(io_type="TIMESTEPS_RANGE")
class TimestepsRange(ComfyTypeIO):
    """Start and end of a part of the sampling, each from 0 to 1."""

    Type = tuple[float, float]


@comfytype(io_type="LATENT_OPERATION")
class LatentOperation(ComfyTypeIO):
    """A function from a latent tensor to one of the same shape."""

    Type = Callable[..., Any]


@comfytype(io_type="FLOW_CONTROL")
class FlowControl(ComfyTypeIO):
    """What opens and closes a loop."""

    Type = tuple[str, Any]


@comfytype(io_type="ACCUMULATION")
class Accumulation(ComfyTypeIO):
    class AccumulationDict(TypedDict):
        accum: list[Any]

    Type = AccumulationDict


@comfytype(io_type="PHOTOMAKER")
class Photomaker(ComfyTypeIO):
    pass


@comfytype(io_type="POINT")
class Point(ComfyTypeIO):
    pass


@comfytype(io_type="FACE_ANALYSIS")
class FaceAnalysis(ComfyTypeIO):
    pass


@comfytype(io_type="BBOX")
class BBOX(ComfyTypeIO):
    pass


@comfytype(io_type="SEGS")
class SEGS(ComfyTypeIO):
    pass


@comfytype(io_type="TRACKS")
class Tracks(ComfyTypeIO):
    class TrackDict(TypedDict):
        track_path: Any
        track_visibility: Any

    Type = TrackDict


@comfytype(io_type="HISTOGRAM")
class Histogram(ComfyTypeIO):
    """How many values fall into each bin."""

    Type = list[int]


@comfytype(io_type="DICT")
class Dict(ComfyTypeIO):
    Type = dict


@comfytype(io_type="ARRAY")
class Array(ComfyTypeIO):
    Type = list
