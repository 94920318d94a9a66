"""Pictures as prompts by their nodes: CLIP vision, style models, unCLIP checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from comfyk_core_nodes.vision.residual_attention import ResidualAttentionBlock
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

pytestmark = pytest.mark.usefixtures("in_a_job")

Out = Callable[..., Any]
File = dict[str, Tensor]

WIDTH, PROJECTION, SIZE, TEXT = 64, 48, 56, 24
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


@pytest.fixture
def witness(tiny: ModuleType) -> Any:
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=16,
        patch_size=14,
        image_size=SIZE,
        projection_dim=PROJECTION,
        hidden_act="quick_gelu",
    )
    return tiny.randomised(CLIPVisionModelWithProjection(config))


def weights(model: Any) -> File:
    state = {key: value for key, value in model.state_dict().items() if "position_ids" not in key}
    vision = {key: value for key, value in state.items() if key.startswith("vision_model.")}
    assert vision, "the names of the files"
    return state


def prepared(picture: Tensor, crop: bool) -> Tensor:
    """As Pillow resizes: the shorter side and the middle, or all of it squeezed."""
    image = Image.fromarray((picture.numpy() * 255).round().astype(np.uint8))
    if crop:
        scale = SIZE / min(image.size)
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
        )
        left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
        image = image.crop((left, top, left + SIZE, top + SIZE))
    else:
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy((np.asarray(image) / 255 - MEAN) / STD).float().movedim(-1, 0)


def gradient(height: int, width: int) -> Tensor:
    """A smooth picture `[H, W, 3]` of whole 8-bit values."""
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    picture = torch.stack(
        [rows * columns, rows.expand(-1, width), (columns * 6).sin().abs() * (1 - rows)], -1
    )
    return (picture * 255).round() / 255


@pytest.mark.parametrize("crop", ["center", "none"])
@pytest.mark.parametrize("size", [(80, 130), (130, 80), (SIZE, SIZE)])
def test_clip_vision(
    out: Out, put: Callable[..., str], witness: Any, crop: str, size: tuple[int, int]
) -> None:
    model = out("CLIPVisionLoader", clip_name=put("clip_vision", "v.safetensors", weights(witness)))
    pictures = torch.stack([gradient(*size), gradient(*size).flip(0)])
    seen = out("CLIPVisionEncode", clip_vision=model, image=pictures, crop=crop)
    expected = witness(torch.stack([prepared(picture, crop == "center") for picture in pictures]))
    assert seen.image_embeds.shape == (2, PROJECTION)
    assert (seen.image_embeds - expected.image_embeds).norm() < 2e-2 * expected.image_embeds.norm()
    cosine = torch.nn.functional.cosine_similarity(seen.image_embeds, expected.image_embeds)
    assert cosine.min() > 0.999


def style_state(tokens: int = 4) -> File:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * shape[-1] ** -0.5

    block = ResidualAttentionBlock(WIDTH, 8, 96)
    state = {f"transformer_layes.0.{key}": draw(*value.shape) for key, value in block.state_dict().items()}
    state |= {
        f"ln_{where}.{kind}": draw(WIDTH) + 1 for where in ("pre", "post") for kind in ("weight", "bias")
    }
    return state | {"style_embedding": draw(1, tokens, WIDTH), "proj": draw(WIDTH, TEXT)}


@pytest.fixture
def style(out: Out, put: Callable[..., str]) -> Any:
    return out("StyleModelLoader", style_model_name=put("style_models", "s.safetensors", style_state()))


@pytest.fixture
def seen() -> Any:
    """What a vision model saw in two pictures."""
    return SimpleNamespace(last_hidden_state=torch.randn(2, 17, WIDTH))


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_a_style_multiplied(out: Out, style: Any, seen: Any, strength: float) -> None:
    prompt = torch.randn(1, 7, TEXT)
    ((cond, options),) = out(
        "StyleModelApply", conditioning=[[prompt, {"a": 1}]], style_model=style, clip_vision_output=seen,
        strength=strength, strength_type="multiply",
    )  # fmt: skip
    tokens = style.get_cond(seen)
    assert tokens.shape == (2, 4, TEXT)
    assert options == {"a": 1}
    torch.testing.assert_close(cond, torch.cat([prompt, tokens.reshape(1, 8, TEXT) * strength], 1))


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_a_style_by_attention(out: Out, style: Any, seen: Any, strength: float) -> None:
    """All but the style's own tokens pay it `strength` times the attention: that logarithm is added before softmax."""
    prompt = torch.randn(1, 7, TEXT)

    def add(conditioning: Any, strength: float, kind: str = "attn_bias") -> Any:
        return out(
            "StyleModelApply", conditioning=conditioning, style_model=style, clip_vision_output=seen,
            strength=strength, strength_type=kind,
        )  # fmt: skip

    once = add([[prompt, {}]], strength)
    ((cond, options),) = once
    torch.testing.assert_close(cond[:, 7:], style.get_cond(seen).reshape(1, 8, TEXT))
    bias = math.log(strength) if strength else -math.inf
    expected = torch.zeros(1, 16, 16)  # 7 of the prompt, 8 of the style, and one for the picture
    expected[:, :7, 7:15] = expected[:, 15:, 7:15] = bias
    torch.testing.assert_close(options["attention_mask"].float(), expected, rtol=1e-3, atol=1e-3)
    assert options["attention_mask_img_shape"] == (1, 1)

    ((_, twice),) = add(once, 3.0)
    again = torch.zeros(1, 24, 24)
    kept = [*range(15), 23]
    again[:, torch.tensor(kept)[:, None], torch.tensor(kept)] = expected
    again[:, :15, 15:23] = again[:, 23:, 15:23] = math.log(3)
    torch.testing.assert_close(twice["attention_mask"].float(), again, rtol=1e-3, atol=1e-3)
    ((_, scaled),) = add(once, 3.0, "multiply")
    again[:, :, 15:23] = 0
    torch.testing.assert_close(scaled["attention_mask"].float(), again, rtol=1e-3, atol=1e-3)
    assert add([[prompt, {}]], 1.0)[0][1] == {}, "a bias of 0 needs no mask"


def unclip_checkpoint(tiny: ModuleType, base: File, vision: Any) -> File:
    from comfyk_core_nodes.families.sd.unet import UNetModel

    unet = UNetModel(
        in_channels=4, model_channels=32, out_channels=4, num_res_blocks=[1, 1], channel_mult=[1, 2],
        transformer_depth=[1, 0], transformer_depth_output=[1, 1, 0, 0], transformer_depth_middle=1,
        context_dim=64, num_heads=-1, num_head_channels=64, use_linear_in_transformer=True,
        num_classes="sequential", adm_in_channels=2 * PROJECTION,
    )  # fmt: skip
    state = {key: value for key, value in base.items() if not key.startswith("model.diffusion_model.")}
    state |= tiny.prefixed("model.diffusion_model.", tiny.randomised(unet).state_dict())
    return state | tiny.prefixed("embedder.model.visual.", to_openclip(weights(vision)))


def to_openclip(state: File) -> File:
    names = {
        "vision_model.": "",
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding": "conv1",
        "embeddings.position_embedding.weight": "positional_embedding",
        "pre_layrnorm": "ln_pre",
        "post_layernorm": "ln_post",
        "encoder.layers": "transformer.resblocks",
        "layer_norm": "ln_",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn": "attn",
    }
    out: File = {}
    for key, value in state.items():
        name = key
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        if key == "visual_projection.weight":
            out["proj"] = value.T
        elif "q_proj" in key:
            parts = [state[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            out[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif "k_proj" not in key and "v_proj" not in key:
            out[name] = value
    return out


def test_unclip(
    out: Out, put: Callable[..., str], states: Callable[[str], File], tiny: ModuleType, witness: Any
) -> None:
    state = unclip_checkpoint(tiny, states("sd2"), witness)
    model, clip, vae, vision = out(
        "unCLIPCheckpointLoader", ckpt_name=put("checkpoints", "u.safetensors", state)
    )
    assert vae is not None
    pictures = torch.stack([gradient(70, 90), gradient(70, 90).flip(1)])
    seen = out("CLIPVisionEncode", clip_vision=vision, image=pictures, crop="center")
    expected = witness(torch.stack([prepared(picture, True) for picture in pictures])).image_embeds
    assert torch.nn.functional.cosine_similarity(seen.image_embeds, expected).min() > 0.999

    text = out("CLIPTextEncode", text="a house", clip=clip)

    def latent(conditioning: Any, seed: int = 1) -> Tensor:
        return out(
            "KSampler", model=model, positive=conditioning, negative=text, seed=seed, steps=2, cfg=3.0,
            sampler_name="euler", scheduler="normal", latent_image={"samples": torch.zeros(1, 4, 8, 8)},
            denoise=1.0,
        )["samples"]  # fmt: skip

    def shown(conditioning: Any, strength: float, noise: float) -> Any:
        return out(
            "unCLIPConditioning", conditioning=conditioning, clip_vision_output=seen, strength=strength,
            noise_augmentation=noise,
        )  # fmt: skip

    plain, once = latent(text), latent(shown(text, 1.0, 0.1))
    assert not torch.equal(plain, once)
    assert torch.equal(once, latent(shown(text, 1.0, 0.1))), "the noise of the pictures is the seed's"
    assert torch.equal(plain, latent(shown(text, 0.0, 0.1)))
    assert not torch.equal(once, latent(shown(shown(text, 1.0, 0.1), 0.5, 0.0)))

    other = SimpleNamespace(image_embeds=torch.zeros(1, 2 * PROJECTION))
    wrong = out(
        "unCLIPConditioning",
        conditioning=text,
        clip_vision_output=other,
        strength=1.0,
        noise_augmentation=0.0,
    )
    with pytest.raises(
        ValueError, match=r"has 96 numbers, and this model \(sd21_unclip\) takes 48: .* CLIP vision"
    ):
        latent(wrong)
