"""The networks against `diffusers` and `transformers`, which other people wrote, on the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk_core_nodes.families.sd.detection import unet_config
from comfyk_core_nodes.families.sd.diffusers_keys import diffusers_unet_to_original
from comfyk_core_nodes.families.sd.unet import UNetModel
from comfyk_core_nodes.text import bpe, encoders, layouts
from comfyk_core_nodes.text.clip_model import text_config
from comfyk_core_nodes.text.tokenizer import END, START
from comfyk_core_nodes.vae.autoencoder import AutoencoderKL, autoencoder_config
from comfyk_core_nodes.vae.layouts import vae_state
from comfyk_core_nodes.weights.assign import assign_weights
from comfyk_core_nodes.weights.layers import prepare_layers, release_layers
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("seeded")

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

Tiny = Callable[[nn.Module], nn.Module]


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def ours_from(state: dict[str, Tensor]) -> UNetModel:
    config = unet_config(state)
    assert config is not None
    model = UNetModel(**config, device="meta")
    assert assign_weights(model, state) == ([], [])
    return model


UNETS: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 24,
        "attention_head_dim": 8,
    },
    "sd1 inpainting": {
        "in_channels": 9,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 24,
        "attention_head_dim": 8,
        "layers_per_block": 1,
    },
    "sd2": {
        "block_out_channels": (64, 128),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 24,
        "attention_head_dim": (1, 2),
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (32, 64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 2),
        "cross_attention_dim": 24,
        "attention_head_dim": (1, 1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 48 + 6 * 256,
    },
}


@pytest.mark.parametrize("family", UNETS)
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_unet(tiny: Tiny, family: str, size: tuple[int, int]) -> None:
    arguments = {"layers_per_block": 2, **UNETS[family]}
    theirs = tiny(diffusers.UNet2DConditionModel(**arguments))
    state = diffusers_unet_to_original(theirs.state_dict())
    assert state is not None
    ours = ours_from(state)
    x = torch.randn(2, arguments.get("in_channels", 4), *size)
    timesteps = torch.tensor([3.0, 812.0])
    context = torch.randn(2, 7, 24)
    extra, y = {}, None
    if family == "sdxl":
        pooled, sizes = torch.randn(2, 48), torch.tensor([[64.0, 96, 0, 8, 64, 64]] * 2)
        extra["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
        from comfyk_core_nodes.families.sd.unet import timestep_embedding

        numbers = timestep_embedding(sizes.flatten(), 256).reshape(2, -1)
        y = torch.cat([pooled, numbers], dim=1)
    expected = theirs(x, timesteps, encoder_hidden_states=context, **extra).sample
    assert close(ours(x, timesteps, context, y), expected)
    prepare_layers(ours, "cpu", torch.float32)
    assert close(ours(x, timesteps, context, y), expected)
    release_layers(ours)


def test_the_numbers_of_a_unet_are_read_from_its_weights(tiny: Tiny) -> None:
    theirs = tiny(diffusers.UNet2DConditionModel(layers_per_block=2, **UNETS["sdxl"]))
    state = diffusers_unet_to_original(theirs.state_dict())
    assert state is not None
    config = unet_config(state)
    assert config is not None
    assert config["channel_mult"] == [1, 2, 4]
    assert config["num_res_blocks"] == [2, 2, 2]
    assert config["transformer_depth"] == [0, 0, 1, 1, 2, 2]
    assert config["transformer_depth_output"] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert config["transformer_depth_middle"] == 2
    assert (config["context_dim"], config["adm_in_channels"]) == (24, 1584)


def test_autoencoder(tiny: Tiny) -> None:
    theirs = tiny(
        diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(32, 64, 64),
            layers_per_block=1,
        )
    )
    state = vae_state(theirs.state_dict())
    config = autoencoder_config(state)
    assert config is not None
    ours = AutoencoderKL(**config, device="meta")
    assert assign_weights(ours, state) == ([], [])
    image = torch.rand(1, 3, 24, 32) * 2 - 1
    distribution = theirs.encode(image).latent_dist
    mean, deviation = ours.moments(image)
    assert close(mean, distribution.mean)
    assert close(deviation, distribution.std)
    assert close(ours.decode(mean), theirs.decode(mean).sample)


def text_witness(tiny: Tiny, projection: int | None, act: str, eos: int) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_act=act,
        projection_dim=projection or 128,
        eos_token_id=eos,
        bos_token_id=START,
    )
    kind = transformers.CLIPTextModel if projection is None else transformers.CLIPTextModelWithProjection
    return tiny(kind(config))


TOKENS = [[START, 320, 2368, END, *[END] * 73], [START, *range(500, 575), END]]


@pytest.mark.parametrize(
    ("habits", "projection", "act"),
    [
        (encoders.CLIP_L, None, "quick_gelu"),
        (encoders.CLIP_L_SDXL, None, "quick_gelu"),
        (encoders.CLIP_H, 128, "gelu"),
        (encoders.CLIP_G, 96, "gelu"),
    ],
)
@pytest.mark.parametrize("skip", [None, -1, -3])
def test_text_encoder(
    tiny: Tiny, habits: encoders.Habits, projection: int | None, act: str, skip: int | None
) -> None:
    theirs = text_witness(tiny, projection, act, END)
    state = layouts.find_text_model(theirs.state_dict())
    assert state is not None
    sizes = text_config(state)
    assert sizes is not None
    ours = encoders.TextEncoder(habits, sizes, device="meta")
    assert assign_weights(ours.transformer, state) == ([], [])
    expected = theirs(torch.tensor(TOKENS), output_hidden_states=True)
    if skip is not None:
        ours.set_clip_options({"layer": skip})
    hidden, pooled = ours(TOKENS)
    layer = habits.layer if skip is None else skip
    theirs_hidden = expected.hidden_states[-1 if layer is None else layer]
    if layer is None or habits.norm_hidden:
        inner = theirs.text_model if hasattr(theirs, "text_model") else theirs
        theirs_hidden = inner.final_layer_norm(theirs_hidden)
    assert close(hidden, theirs_hidden)
    assert close(pooled, expected.pooler_output if projection is None else expected.text_embeds)


def test_tokenizer(tmp_path: Path) -> None:
    vocabulary = {word: number for number, word in bpe.vocabulary().items()}
    model = json.loads(bpe.clip_tokenizer().to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    theirs = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
    for text in (
        "a photo of a cat",
        "IT'S  12345 o'clock, we'll\tgo!",
        "naïve café — “quotes” … 日本語 😀👩‍🚀",
        "<|endoftext|> inside <|startoftext|>",
        "x" * 500,
        "masterpiece:1.2, ((best)) [quality] {a|b} <lora:x:1>",
        "e\u0301 \u0130 ß ﬁ \u200b",
    ):
        assert [START, *bpe.encode(text), END] == theirs(text)["input_ids"], text
