"""LoRA files as the trainers write them: the same LoRA in every spelling gives the same weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk_core_nodes.families.family import ModelConfig
from comfyk_core_nodes.families.lora import LoraError, apply_lora, load_lora
from comfyk_core_nodes.families.sd.latent_formats import SD15
from comfyk_core_nodes.families.sd.lora_keys import diffusers_unet_names, unet_key_map
from comfyk_core_nodes.families.sd.registrations import SD1
from comfyk_core_nodes.memory.manager import load_models_gpu
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.text.lora_keys import clip_key_map
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ..memory.conftest import CPU, same_bits

pytestmark = pytest.mark.usefixtures("nothing_loaded")

TRANSFORMER = (
    *(f"attn{n}.to_{part}" for n in (1, 2) for part in ("q", "k", "v", "out.0")),
    *(f"norm{n}" for n in (1, 2, 3)),
    "ff.net.0.proj",
    "ff.net.2",
)
RESNET = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
ATTENTION = ("norm", "proj_in", "proj_out", *(f"transformer_blocks.0.{layer}" for layer in TRANSFORMER))


def unet_layers() -> list[str]:
    """A U-Net of two levels with two blocks each, attention on the first, as checkpoints name its layers."""
    blocks = {
        "input_blocks.1.0": RESNET,
        "input_blocks.1.1": ATTENTION,
        "input_blocks.2.0": RESNET,
        "input_blocks.2.1": ATTENTION,
        "input_blocks.3.0": ("op",),
        "input_blocks.4.0": (*RESNET, "skip_connection"),
        "input_blocks.5.0": RESNET,
        "middle_block.0": RESNET,
        "middle_block.1": ATTENTION,
        "middle_block.2": RESNET,
        **{f"output_blocks.{n}.0": (*RESNET, "skip_connection") for n in range(6)},
        "output_blocks.2.1": ("conv",),
        **{f"output_blocks.{n}.1": ATTENTION for n in (3, 4, 5)},
    }
    outside = ["input_blocks.0.0", "time_embed.0", "time_embed.2", "out.0", "out.2"]
    return outside + [f"{block}.{layer}" for block, layers in blocks.items() for layer in layers]


def of_keys(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> nn.Module:
    """A model with weights of these keys."""
    root = nn.Module()
    generator = torch.Generator().manual_seed(seed)
    for key, shape in shapes.items():
        *path, last = key.split(".")
        module = root
        for name in path:
            if not hasattr(module, name):
                module.add_module(name, nn.Module())
            module = getattr(module, name)
        module.register_parameter(
            last, nn.Parameter(torch.randn(shape, generator=generator), requires_grad=False)
        )
    return root


def unet() -> ModelPatcher:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in unet_layers():
        shapes[f"diffusion_model.{layer}.weight"] = (4, 4, 3, 3) if layer.endswith("in_layers.2") else (4, 4)
        shapes[f"diffusion_model.{layer}.bias"] = (4,)
    model: Any = of_keys(shapes)
    model.model_config = ModelConfig(SD1, {}, SD15())
    return ModelPatcher(model, CPU, CPU)


class Clip:
    """What a CLIP object has that a LoRA needs."""

    def __init__(self, *encoders: str, patcher: ModelPatcher | None = None) -> None:
        layers = [
            f"{encoder}.transformer.text_model.encoder.layers.{n}.{layer}"
            for encoder in encoders
            for n in (0, 1)
            for layer in ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "layer_norm1")
        ]
        self.patcher = patcher or ModelPatcher(
            of_keys({f"{layer}.weight": (4, 4) for layer in layers}), CPU, CPU
        )
        self.cond_stage_model = self.patcher.model
        self.add_patches = self.patcher.add_patches

    def clone(self) -> Clip:
        return Clip(patcher=self.patcher.clone())


UP = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
DOWN = torch.randn(2, 4, generator=torch.Generator().manual_seed(2))
QUERY = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
OUT = "diffusion_model.output_blocks.4.1.transformer_blocks.0.attn2.to_out.0.weight"

SPELLINGS: dict[str, tuple[str, str, str, str]] = {
    "kohya": (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "lora_unet_up_blocks_1_attentions_1_transformer_blocks_0_attn2_to_out_0",
        ".lora_up.weight",
        ".lora_down.weight",
    ),
    "kohya, checkpoint's names": (
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q",
        "lora_unet_output_blocks_4_1_transformer_blocks_0_attn2_to_out_0",
        ".lora_up.weight",
        ".lora_down.weight",
    ),
    "diffusers": (
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q",
        "unet.up_blocks.1.attentions.1.transformer_blocks.0.attn2.processor.to_out",
        "_lora.up.weight",
        "_lora.down.weight",
    ),
    "diffusers, without a prefix": (
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q",
        "up_blocks.1.attentions.1.transformer_blocks.0.attn2.processor.to_out",
        "_lora.up.weight",
        "_lora.down.weight",
    ),
    "PEFT in diffusers": (
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "unet.up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_out.0",
        ".lora_B.weight",
        ".lora_A.weight",
    ),
    "PEFT": (
        "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "base_model.model.up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_out.0",
        ".lora_B.default.weight",
        ".lora_A.default.weight",
    ),
    "SimpleTuner": (
        "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "lycoris_up_blocks_1_attentions_1_transformer_blocks_0_attn2_to_out_0",
        ".lora_up.weight",
        ".lora_down.weight",
    ),
    "the model's own keys": (
        QUERY.removesuffix(".weight"),
        OUT.removesuffix(".weight"),
        ".lora_B",
        ".lora_A",
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_same_lora_in_every_spelling(spelling: str, caplog: pytest.LogCaptureFixture) -> None:
    query, out, up, down = SPELLINGS[spelling]
    file = {query + up: UP, query + down: DOWN, out + up: 2 * UP, out + down: DOWN}
    model = unet()
    with caplog.at_level(logging.WARNING):
        patched, _ = apply_lora(model, None, file, 0.5, 1.0)
    assert not caplog.records
    before = model.model_state_dict_for_saving()
    after = patched.model_state_dict_for_saving()
    torch.testing.assert_close(after[QUERY], before[QUERY] + 0.5 * UP @ DOWN)
    torch.testing.assert_close(after[OUT], before[OUT] + UP @ DOWN)
    others = before.keys() - {QUERY, OUT}
    assert same_bits({key: before[key] for key in others}, {key: after[key] for key in others})


def test_the_names_are_those_of_diffusers() -> None:
    """Every layer of diffusers' own U-Net of the same shape has a name, and only those."""
    net = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    theirs = {key.removesuffix(".weight") for key in net.state_dict() if key.endswith(".weight")}
    layers = unet_layers()
    names = diffusers_unet_names(layers)
    assert names.keys() == theirs
    assert sorted(names.values()) == sorted(layers)


@pytest.mark.parametrize(
    ("encoders", "name", "key"),
    [
        (("clip_l",), "lora_te_{flat}", "clip_l"),
        (("clip_l",), "text_encoder.{dots}", "clip_l"),
        (("clip_h",), "lora_te_{flat}", "clip_h"),
        (("clip_l", "clip_g"), "lora_te1_{flat}", "clip_l"),
        (("clip_l", "clip_g"), "lora_te2_{flat}", "clip_g"),
        (("clip_l", "clip_g"), "text_encoder_2.{dots}", "clip_g"),
        (("clip_l", "clip_g"), "text_encoders.clip_g.transformer.{dots}", "clip_g"),
        (("clip_g",), "lora_te_{flat}", "clip_g"),
        (("clip_g",), "text_encoder.{dots}", "clip_g"),
    ],
)
def test_text_encoders(encoders: tuple[str, ...], name: str, key: str) -> None:
    dots = "text_model.encoder.layers.1.self_attn.out_proj"
    prefix = name.format(dots=dots, flat=dots.replace(".", "_"))
    clip = Clip(*encoders)
    before = clip.patcher.model_state_dict_for_saving()
    file = {
        f"{prefix}.lora_up.weight": UP,
        f"{prefix}.lora_down.weight": DOWN,
        f"{prefix}.alpha": torch.tensor(1.0),
    }
    _, patched = apply_lora(None, clip, file, 1.0, 0.5)
    after = patched.patcher.model_state_dict_for_saving()
    changed = {each for each in before if not torch.equal(before[each], after[each])}
    assert changed == {f"{key}.transformer.{dots}.weight"}
    weight = changed.pop()
    torch.testing.assert_close(after[weight], before[weight] + 0.5 * 0.5 * UP @ DOWN)


def test_old_diffusers_text_encoders() -> None:
    clip = Clip("clip_l")
    prefix = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    file = {f"{prefix}.lora_linear_layer.up.weight": UP, f"{prefix}.lora_linear_layer.down.weight": DOWN}
    _, patched = apply_lora(None, clip, file, 1.0, 1.0)
    assert list(patched.patcher.patches) == [
        "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
    ]


def test_both_parts_at_their_strengths_loaded_in_a_model() -> None:
    model, clip = unet(), Clip("clip_l")
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    query = SPELLINGS["kohya"][0]
    file = {
        f"{prefix}.lora_{part}.weight": tensor
        for prefix in (text, query)
        for part, tensor in (("up", UP), ("down", DOWN))
    }
    with_model, with_clip = apply_lora(model, clip, file, 2.0, -1.0)
    before = model.model.get_parameter(QUERY).clone()
    load_models_gpu([with_model, with_clip.patcher])
    torch.testing.assert_close(model.model.get_parameter(QUERY).data, before + 2.0 * UP @ DOWN)
    assert with_clip.patcher.patches.values() and with_clip is not clip and not clip.patcher.patches
    load_models_gpu([model])
    assert torch.equal(model.model.get_parameter(QUERY), before)


def lycoris(prefix: str) -> dict[str, tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]]:
    """Files of each kind for a weight [4, 4], and what they make of it."""

    def rand(seed: int, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    a, b, c, d = rand(1, 4, 2), rand(2, 2, 4), rand(3, 4, 2), rand(4, 2, 4)
    w1, w2 = rand(5, 2, 2), rand(6, 2, 2)
    alpha = torch.tensor(3.0)
    magnitude = torch.rand(4, 1) + 0.5
    files: dict[str, tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]] = {
        "loha": (
            {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": alpha},
            lambda w: w + 1.5 * (a @ b) * (c @ d),
        ),
        "lokr": ({"lokr_w1": w1, "lokr_w2": w2, "alpha": alpha}, lambda w: w + torch.kron(w1, w2)),
        "lokr, low rank": (
            {"lokr_w1": w1, "lokr_w2_a": w2, "lokr_w2_b": w1, "alpha": alpha},
            lambda w: w + 1.5 * torch.kron(w1, w2 @ w1),
        ),
        "full": ({"diff": a @ b, "diff_b": a[:, 0]}, lambda w: w + a @ b),
        "norm": ({"w_norm": a @ b, "b_norm": a[:, 0]}, lambda w: w + a @ b),
        "set": ({"set_weight": c @ d}, lambda w: c @ d),
        "glora": (
            {"a1.weight": a, "a2.weight": b, "b1.weight": c, "b2.weight": d},
            lambda w: w + w @ a @ b + c @ d,
        ),
        "dora": (
            {"lora_up.weight": a, "lora_down.weight": b, "alpha": alpha, "dora_scale": magnitude},
            lambda w: magnitude * (w + 1.5 * a @ b) / w.norm(dim=1, keepdim=True),
        ),
        "oft": (
            {"oft_blocks": torch.zeros(2, 2, 2)},
            lambda w: w,
        ),
    }
    return {
        kind: ({f"{prefix}.{name}": tensor for name, tensor in file.items()}, made)
        for kind, (file, made) in files.items()
    }


@pytest.mark.parametrize("kind", list(lycoris("")))
def test_lycoris(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    file, expected = lycoris(SPELLINGS["kohya"][0])[kind]
    model = unet()
    with caplog.at_level(logging.WARNING):
        patched, _ = apply_lora(model, None, file, 1.0, 1.0)
    assert not caplog.records
    before = model.model_state_dict_for_saving()
    after = patched.model_state_dict_for_saving()
    torch.testing.assert_close(after[QUERY], expected(before[QUERY]))
    bias = QUERY.replace(".weight", ".bias")
    has_bias = any(key.endswith(("diff_b", "b_norm")) for key in file)
    assert torch.equal(after[bias], before[bias]) != has_bias


def test_a_part_of_a_weight() -> None:
    """`to_load` may name a slice, as where one matrix holds queries, keys and values."""
    patches = load_lora({"k.lora_up.weight": UP[:2], "k.lora_down.weight": DOWN}, {"k": (QUERY, (0, 2, 2))})
    model = unet()
    patched = model.clone()
    assert patched.add_patches(patches) == [(QUERY, (0, 2, 2))]
    before, after = (each.model_state_dict_for_saving()[QUERY] for each in (model, patched))
    expected = before.clone()
    expected[2:4] += UP[:2] @ DOWN
    torch.testing.assert_close(after, expected)


def test_keys_that_fit_nothing_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    query, _, up, down = SPELLINGS["kohya"]
    file = {query + up: UP, query + down: DOWN, "lora_unet_what_is_this.alpha": torch.tensor(1.0)}
    with caplog.at_level(logging.WARNING):
        apply_lora(unet(), None, file, 1.0, 1.0, name="mine.safetensors")
    assert (
        "mine.safetensors: 1 of 3 keys fit nothing in this model: lora_unet_what_is_this.alpha" in caplog.text
    )


QUERY_NAME = SPELLINGS["kohya"][0]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({}, "found no tensors"),
        ({"first_stage_model.conv.weight": UP}, "1 tensors of something else .first_stage_model.conv.weight"),
        ({"lora_unet_double_blocks_0.lora_up.weight": UP}, "another family .* as lora_unet_double_blocks_0"),
        ({"lora_te3_x.lora_up.weight": UP}, "found one for another family of models"),
        ({f"{QUERY_NAME}.lora_up.weight": UP}, f"expected {QUERY_NAME}.lora_down.weight beside"),
        ({f"{QUERY_NAME}.hada_w1_a": UP}, "hada_w1_b beside"),
        ({f"{QUERY_NAME}.lokr_w1": UP}, "lokr_w2_a beside"),
        ({f"{QUERY_NAME}.a1.weight": UP}, "a2.weight beside"),
        (
            {
                f"{QUERY_NAME}.lora_up.weight": UP,
                f"{QUERY_NAME}.lora_down.weight": DOWN,
                f"{QUERY_NAME}.alpha": UP,
            },
            "expected one number in",
        ),
        (
            {
                f"{QUERY_NAME}.lora_up.weight": torch.ones(9, 2),
                f"{QUERY_NAME}.lora_down.weight": torch.ones(2, 7),
            },
            rf"found one for another family of models: \[9, 7\] for {QUERY} of \[4, 4\]",
        ),
    ],
)
def test_a_file_that_is_no_lora_for_this_model(file: dict[str, Any], message: str) -> None:
    with pytest.raises(LoraError, match=message) as caught:
        apply_lora(unet(), Clip("clip_l"), file, 1.0, 1.0, name="bad.safetensors")
    assert str(caught.value).startswith("bad.safetensors: expected")


def test_a_file_for_the_other_part(caplog: pytest.LogCaptureFixture) -> None:
    """Where a workflow has only the model, a LoRA for text encoders changes nothing, and is named in the log."""
    query, _, up, down = SPELLINGS["kohya"]
    for_text = {"lora_te_text_model_x.lora_up.weight": UP, "lora_te_text_model_x.lora_down.weight": DOWN}
    for_model = {query + up: UP, query + down: DOWN}
    model, clip = unet(), Clip("clip_l")
    with caplog.at_level(logging.WARNING):
        patched, none = apply_lora(model, None, for_text, 1.0, 0.0, name="text.safetensors")
        assert none is None and patched is not model
        assert "text.safetensors: changes nothing here: all its 2 keys are for text encoders" in caplog.text
        none, _ = apply_lora(None, clip, for_model, 1.0, 1.0, name=Path("styles/model.safetensors"))
        assert none is None
    assert "model.safetensors: changes nothing here: all its 2 keys are for the model" in caplog.text
    before, after = (each.model_state_dict_for_saving() for each in (model, patched))
    assert all(torch.equal(before[key], after[key]) for key in before)
    with pytest.raises(
        LoraError, match=r"expected a LoRA for Stable Diffusion 1\.x, found one for another family"
    ):
        apply_lora(model, None, {"lora_unet_other.lora_up.weight": UP}, 1.0, 1.0)


def test_shapes_that_make_no_sense_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    query, out, up, down = SPELLINGS["kohya"]
    file = {query + up: UP, query + down: DOWN, out + up: torch.ones(3), out + down: torch.tensor(2.0)}
    model = unet()
    patched, _ = apply_lora(model, None, file, 1.0, 1.0)
    with caplog.at_level(logging.WARNING):
        after = patched.model_state_dict_for_saving()
    assert OUT in caplog.text
    assert torch.equal(after[OUT], model.model.get_parameter(OUT))
    assert not torch.equal(after[QUERY], model.model.get_parameter(QUERY))


def test_every_layer_has_a_name_and_no_name_is_of_nothing() -> None:
    model, clip = unet(), Clip("clip_l", "clip_g")
    names = unet_key_map(model.model)
    state = model.model.state_dict()
    assert set(names.values()) == set(state)
    assert set(clip_key_map(clip.cond_stage_model).values()) == set(clip.cond_stage_model.state_dict())
