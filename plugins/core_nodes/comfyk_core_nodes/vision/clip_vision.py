"""`ClipVisionModel`: a vision transformer with its preparation of pictures and its device, as nodes hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from comfyk_core_nodes.devices.device import (
    intermediate_device,
    text_encoder_device,
    text_encoder_offload_device,
)
from comfyk_core_nodes.memory.managed import managed
from comfyk_core_nodes.vision.transformer import VisionModel, VisionShape, vision_shape
from comfyk_core_nodes.weights.build import Path, build, reading
from comfyk_core_nodes.weights.clip_encoder import openclip_layer
from comfyk_core_nodes.weights.contents import describe
from comfyk_core_nodes.weights.dtypes import text_encoder_dtype
from comfyk_core_nodes.weights.files import ModelFileError, load_torch_file
from comfyk_core_nodes.weights.mapped_files import check_all_there
from comfyk_core_nodes.weights.state_dict import StateDict, stored_dtype, with_prefix

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher

EXPECTED = "a CLIP vision model"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)


@dataclass
class ClipVisionOutput:
    """What a vision model sees in `[B]` pictures. Entries are attributes, and items by their name."""

    last_hidden_state: Tensor
    """`[B, N, D]`, without the norm after it for CLIP."""
    penultimate_hidden_states: Tensor
    """`[B, N, D]`: what the last layer is given."""
    image_embeds: Tensor
    """`[B, P]` of the whole picture."""
    image_sizes: list[torch.Size]
    """The prepared size of each picture, `[3, S, S]`."""
    all_hidden_states: Tensor | None = None
    """`[B, layers, N, D]`, for SigLIP."""
    mm_projected: Tensor | None = None

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __setitem__(self, key: str, item: Any) -> None:
        setattr(self, key, item)


class ClipVisionModel:
    """`model` is the network, `patcher` its ModelPatcher."""

    patcher: ModelPatcher

    def __init__(self, model: VisionModel, shape: VisionShape, dtype: torch.dtype) -> None:
        self.model = model
        self.dtype = dtype
        self.image_size = shape.image_size
        self.image_mean = SIGLIP_MEAN if shape.siglip else CLIP_MEAN
        self.image_std = SIGLIP_STD if shape.siglip else CLIP_STD
        self.return_all_hidden_states = shape.siglip
        self.load_device = text_encoder_device()
        offload_device = text_encoder_offload_device()
        self.patcher = managed(model, self.load_device, offload_device, dtype, torch.float32)

    def encode_image(self, image: Tensor, crop: bool = True) -> ClipVisionOutput:
        """What the model sees in `[B, H, W, C]`, from 0 to 1. See `preprocess` for `crop`."""
        from comfyk_core_nodes.memory.manager import load_models_gpu

        load_models_gpu([self.patcher])
        pixels = preprocess(
            image.to(self.load_device).float(), self.image_size, self.image_mean, self.image_std, crop
        )
        out = self.model(pixels)
        check_all_there()
        home = intermediate_device()
        return ClipVisionOutput(
            last_hidden_state=out.last.to(home),
            penultimate_hidden_states=out.hidden[-2].to(home),
            image_embeds=out.embeds.to(home),
            image_sizes=[pixels.shape[1:]] * pixels.shape[0],
            all_hidden_states=torch.stack(out.hidden, dim=1).to(home)
            if self.return_all_hidden_states
            else None,
        )

    def get_sd(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())


def preprocess(
    image: Tensor,
    size: int = 224,
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
    crop: bool = True,
) -> Tensor:
    """`[B, H, W, C]` from 0 to 1 as a model was trained on pictures: `[B, 3, size, size]`, in 8 bits, normalised.

    With `crop` the shorter side becomes `size` and the middle is kept; without, the picture is squeezed.
    """
    pixels = image[..., :3].movedim(-1, 1)
    height, width = pixels.shape[2:]
    if (height, width) != (size, size):
        target = (size, size)
        if crop:
            scale = size / min(height, width)
            target = (round(scale * height), round(scale * width))
        pixels = torch.nn.functional.interpolate(pixels, size=target, mode="bicubic", antialias=True)
        top, left = (target[0] - size) // 2, (target[1] - size) // 2
        pixels = pixels[:, :, top : top + size, left : left + size]
    pixels = (pixels * 255.0).clamp(0, 255).round() / 255.0
    return (pixels - pixels.new_tensor(mean)[:, None, None]) / pixels.new_tensor(std)[:, None, None]


def load_clip_vision(path: Path) -> ClipVisionModel:
    """The vision model in a file, in the layout of `transformers` or OpenCLIP (also one with a text model beside it).

    Raises ModelFileError for a file that holds something else.
    """
    state, _ = load_torch_file(path)
    with reading(path, EXPECTED):
        model = clip_vision_from_state(state)
    if model is None:
        raise ModelFileError(path, EXPECTED, describe(state))
    return model


def clip_vision_from_state(state: Mapping[str, Tensor]) -> ClipVisionModel | None:
    """The vision model among these weights, as checkpoints of unCLIP have one; None where there is none.

    Raises ValueError or KeyError where it is incomplete.
    """
    own = vision_state(state)
    shape = vision_shape(own)
    if shape is None:
        return None
    if shape.layers < 2:
        raise ValueError(f"it has {shape.layers} layers")
    model = build(lambda: VisionModel(shape), own)
    return ClipVisionModel(model, shape, text_encoder_dtype(text_encoder_device(), stored_dtype(own)))


# Layouts ---------------------------------------------------------------------------------------------------------

_OPENCLIP_MARK = "transformer.resblocks.0.attn.in_proj_weight"
_OPENCLIP = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
}


def vision_state(state: Mapping[str, Tensor]) -> StateDict:
    """The vision model among these weights with the names of `transformers`; views of them where they are split."""
    for prefix in ("visual.", ""):
        own = with_prefix(state, prefix) if prefix else state
        if _OPENCLIP_MARK in own and "conv1.weight" in own:
            return _openclip_to_transformers(own)
    return {
        key: value for key, value in state.items() if key.startswith(("vision_model.", "visual_projection."))
    }


def _openclip_to_transformers(state: Mapping[str, Tensor]) -> StateDict:
    out: StateDict = {}
    for key, value in state.items():
        if key == "proj":
            # Stored to be multiplied from the right.
            out["visual_projection.weight"] = value.transpose(0, 1)
        elif key in _OPENCLIP:
            out[f"vision_model.{_OPENCLIP[key]}"] = value
        else:
            out |= openclip_layer(key, value, "vision_model.") or {}
    return out
