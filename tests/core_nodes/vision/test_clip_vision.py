"""CLIP vision models against those of `transformers`, and the preparation of pictures against Pillow's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyk_core_nodes.vision.clip_vision import (
    CLIP_MEAN,
    CLIP_STD,
    clip_vision_from_state,
    load_clip_vision,
    preprocess,
)
from comfyk_core_nodes.weights.files import ModelFileError
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipVisionConfig,
    SiglipVisionModel,
)

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 16,
    "image_size": 28,
    "patch_size": 7,
}


def clip(layers: int, activation: str) -> CLIPVisionModelWithProjection:
    torch.manual_seed(0)
    config = CLIPVisionConfig(**SIZES, num_hidden_layers=layers, hidden_act=activation, projection_dim=24)
    return randomise(CLIPVisionModelWithProjection(config))


def randomise(model: Any) -> Any:
    """Weights large enough for every part to count."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(state: dict[str, Tensor], name: str = "vision.safetensors") -> Path:
        path = tmp_path / name
        state = {key: value.detach().clone().contiguous() for key, value in state.items()}
        if path.suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save(state, path)
        return path

    return write


@pytest.fixture
def picture() -> Tensor:
    """At the model's size, so that preparing it only rounds and normalises."""
    pixels = torch.randint(0, 256, (2, 28, 28, 3), generator=torch.Generator().manual_seed(1))
    return pixels.float() / 255


def normalised(picture: Tensor, mean: Any, std: Any) -> Tensor:
    return ((picture - torch.tensor(mean)) / torch.tensor(std)).movedim(-1, -3)


def to_openclip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The other layout of the same weights."""
    names = {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "pre_layrnorm.": "ln_pre.",
        "post_layernorm.": "ln_post.",
        "encoder.layers.": "transformer.resblocks.",
        ".layer_norm1.": ".ln_1.",
        ".layer_norm2.": ".ln_2.",
        ".mlp.fc1.": ".mlp.c_fc.",
        ".mlp.fc2.": ".mlp.c_proj.",
        ".self_attn.out_proj.": ".attn.out_proj.",
    }
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if key == "visual_projection.weight":
            out["visual.proj"] = value.T
            continue
        for old, new in names.items():
            key = key.replace(old, new)
        out[key.replace("vision_model.", "visual.")] = value
    for key in [key for key in out if ".self_attn.q_proj." in key]:
        layer, kind = key.split(".self_attn.q_proj.")
        parts = [out.pop(f"{layer}.self_attn.{part}_proj.{kind}") for part in "qkv"]
        out[f"{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
    return out


@pytest.mark.parametrize(("layers", "activation"), [(3, "quick_gelu"), (26, "gelu")])
@pytest.mark.parametrize("layout", ["transformers", "openclip", "whole"])
def test_clip(layers: int, activation: str, layout: str, save: Callable[..., Path], picture: Tensor) -> None:
    theirs = clip(layers, activation)
    state: Any = theirs.state_dict()
    if layout == "openclip":
        state = {
            **to_openclip(state),
            "positional_embedding": torch.zeros(77, 8),
            "logit_scale": torch.ones(1),
        }
    elif layout == "whole":
        state = {**state, "text_model.embeddings.position_embedding.weight": torch.zeros(77, 8)}
    model = load_clip_vision(save(state))
    assert model.image_size == 28
    ours = model.encode_image(picture)
    with torch.no_grad():
        expected = theirs(normalised(picture, CLIP_MEAN, CLIP_STD), output_hidden_states=True)
    assert torch.allclose(ours.image_embeds, expected.image_embeds, atol=1e-4)
    assert torch.allclose(ours.last_hidden_state, expected.last_hidden_state, atol=1e-4)
    assert torch.allclose(ours.penultimate_hidden_states, expected.hidden_states[-2], atol=1e-4)
    assert ours["image_embeds"] is ours.image_embeds
    assert ours.image_sizes == [torch.Size([3, 28, 28])] * 2


def test_siglip(save: Callable[..., Path], picture: Tensor) -> None:
    torch.manual_seed(0)
    config = SiglipVisionConfig(**SIZES, num_hidden_layers=3, layer_norm_eps=1e-5, vision_use_head=False)
    theirs = randomise(SiglipVisionModel(config))
    state = {
        key if key.startswith("vision_model.") else f"vision_model.{key}": v
        for key, v in theirs.state_dict().items()
    }
    model = load_clip_vision(save(state))
    ours = model.encode_image(picture)
    with torch.no_grad():
        expected = theirs(normalised(picture, [0.5] * 3, [0.5] * 3), output_hidden_states=True)
    assert torch.allclose(ours.last_hidden_state, expected.last_hidden_state, atol=1e-4)
    assert ours.all_hidden_states is not None and ours.all_hidden_states.shape == (2, 3, 16, 64)
    assert torch.allclose(ours.penultimate_hidden_states, expected.hidden_states[-2], atol=1e-4)


def test_half_precision_file(save: Callable[..., Path], picture: Tensor) -> None:
    theirs = clip(3, "quick_gelu").half().float()
    ours = load_clip_vision(save({k: v.half() for k, v in theirs.state_dict().items()})).encode_image(picture)
    with torch.no_grad():
        expected = theirs(normalised(picture, CLIP_MEAN, CLIP_STD)).image_embeds
    assert ours.image_embeds.dtype == torch.float32
    assert torch.allclose(ours.image_embeds, expected, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(300, 200), (150, 400), (224, 224), (100, 60)])
def test_pictures_are_prepared_as_pillow_does(height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    photo = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    image = torch.from_numpy(np.asarray(photo).copy()).float().unsqueeze(0) / 255
    scale = 224 / min(height, width)
    size = round(width * scale), round(height * scale)
    resized = photo.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    for crop, expected in (
        (True, resized.crop((left, top, left + 224, top + 224))),
        (False, photo.resize((224, 224), Image.Resampling.BICUBIC)),
    ):
        ours = preprocess(image, crop=crop)
        theirs = normalised(torch.from_numpy(np.asarray(expected).copy()).float() / 255, CLIP_MEAN, CLIP_STD)
        pixels = (ours[0] - theirs).abs() * torch.tensor(CLIP_STD)[:, None, None] * 255
        assert ours.shape == (1, 3, 224, 224)
        assert pixels.max() < 2.01 and pixels.mean() < 0.5


def test_alpha_is_left_out() -> None:
    image = torch.rand(1, 30, 40, 4)
    assert torch.equal(preprocess(image), preprocess(image[..., :3]))


def test_bad_files(save: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"odd.safetensors: expected a CLIP vision model, found a LoRA"):
        load_clip_vision(save({"x.lora_up.weight": torch.zeros(2)}, "odd.safetensors"))
    state = clip(2, "quick_gelu").state_dict()
    for layout in (state, to_openclip(state)):
        for key in layout:
            if key in ("visual_projection.weight", "visual.proj"):
                continue
            less = {name: value for name, value in layout.items() if name != key}
            with pytest.raises(ModelFileError, match=r"less.safetensors: expected a CLIP vision model"):
                load_clip_vision(save(less, "less.safetensors"))

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"vision_model": Trap()}, tmp_path / "trap.bin")
    with pytest.raises(ModelFileError, match="only running code could build"):
        load_clip_vision(tmp_path / "trap.bin")
    assert not (tmp_path / "sprung").exists()


def test_no_vision_model_in_a_checkpoint() -> None:
    assert clip_vision_from_state({}) is None
