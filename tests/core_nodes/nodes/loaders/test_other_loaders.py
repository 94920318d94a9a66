"""A folder that diffusers wrote, checkpoints with a configuration, ControlNets and GLIGEN models, by their nodes."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from comfyk.app import App
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

pytestmark = pytest.mark.usefixtures("in_a_job")

Out = Callable[..., Any]
File = dict[str, Tensor]


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    return a.shape == b.shape and bool((a - b).norm() <= tolerance * b.norm())


def step(out: Out, model: Any, positive: Any, negative: Any = None, **more: Any) -> Tensor:
    values = {
        "seed": 1,
        "steps": 1,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
    }
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    return out(
        "KSampler", model=model, positive=positive, negative=negative or positive, latent_image=latent,
        **values | more,
    )["samples"]  # fmt: skip


class Folder:
    """A tiny model of each kind, written by the libraries themselves."""

    def __init__(self, tiny: ModuleType) -> None:
        common: dict[str, Any] = {"block_out_channels": (32, 64), "layers_per_block": 1}
        self.unet = tiny.randomised(
            UNet2DConditionModel(
                **common,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=64,
                attention_head_dim=8,
            )
        )
        vae: dict[str, Any] = {
            "block_out_channels": (32, 32, 64, 64),
            "layers_per_block": 1,
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "latent_channels": 4,
        }
        self.vae = tiny.randomised(AutoencoderKL(**vae))
        config = CLIPTextConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=1,
            hidden_act="quick_gelu",
            eos_token_id=49407,
        )
        self.text = tiny.randomised(CLIPTextModel(config))


@pytest.fixture
def folder(app: App, tiny: ModuleType) -> Folder:
    made = Folder(tiny)
    root = app.folders.paths("diffusers")[0] / "group" / "tiny"
    made.unet.save_pretrained(root / "unet")
    made.vae.save_pretrained(root / "vae")
    made.text.save_pretrained(root / "text_encoder")
    (root / "model_index.json").write_text("{}")
    return made


def test_a_folder_of_diffusers(app: App, out: Out, folder: Folder) -> None:
    assert app.nodes["DiffusersLoader"].info()["input"]["required"]["model_path"][0] == ["group/tiny"]
    model, clip, vae = out("DiffusersLoader", model_path="group/tiny")

    prompt = out("CLIPTextEncode", text="red house", clip=clip)
    tokens = torch.tensor([[49406, 736, 1212, *[49407] * 74]])
    text = folder.text(tokens).last_hidden_state
    assert close(prompt[0][0], text)

    picture = torch.rand(1, 32, 48, 3)
    latent = out("VAEEncode", pixels=picture, vae=vae)
    expected = folder.vae.encode(picture.movedim(-1, 1) * 2 - 1).latent_dist.mean
    assert close(latent["samples"], expected)
    decoded = folder.vae.decode(expected).sample / 2 + 0.5
    assert close(out("VAEDecode", samples=latent, vae=vae), decoded.clamp(0, 1).movedim(1, -1))

    # One Euler step from the noisiest level to none is the prediction there.
    result = step(out, model, prompt)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    alpha = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)[-1]
    sigma = ((1 - alpha) / alpha).sqrt().float()
    x = noise * (1 + sigma**2).sqrt()
    eps = folder.unet(x / (1 + sigma**2).sqrt(), 999, text).sample
    assert close(result, (x - sigma * eps) / 0.18215, 1e-3)


@pytest.mark.parametrize(
    "config", ["parameterization: v", "", "cond_stage_config: {params: {layer_idx: -2}}"]
)
def test_a_configuration(app: App, out: Out, put: Callable[..., str], states: Any, config: str) -> None:
    name = put("checkpoints", "tiny.safetensors", states("sd1"))
    file = app.folders.paths("configs")[0] / "own.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"model:\n  params:\n    linear_start: 0.00085\n    {config}\n")
    model, clip, vae = out("CheckpointLoader", config_name="own.yaml", ckpt_name=name)
    plain, plain_clip, _ = out("CheckpointLoaderSimple", ckpt_name=name)
    assert vae is not None
    if "layer_idx" in config:
        plain_clip = out("CLIPSetLastLayer", clip=plain_clip, stop_at_clip_layer=-2)
    prompt, expected = (out("CLIPTextEncode", text="a house", clip=one) for one in (clip, plain_clip))
    assert torch.equal(prompt[0][0], expected[0][0])
    if "v" in config.split(": ")[-1]:
        plain = out("ModelSamplingDiscrete", model=plain, sampling="v_prediction", zsnr=False)
    assert torch.equal(step(out, model, prompt), step(out, plain, prompt))


@pytest.fixture
def control_state(tiny: ModuleType) -> File:
    control = ControlNetModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=8,
        conditioning_embedding_out_channels=(8, 16, 24, 32),
    )
    return tiny.randomised(control).state_dict()


def test_a_difference_controlnet(out: Out, put: Callable[..., str], states: Any, control_state: File) -> None:
    """It holds what to add to the model's weights: with those of the model it is the ControlNet."""
    from comfyk_core_nodes.control.layouts import diffusers_controlnet_to_original

    original = diffusers_controlnet_to_original(control_state)
    assert original is not None
    prefix = "model.diffusion_model."
    base = {k.removeprefix(prefix): v for k, v in states("sd1").items() if k.startswith(prefix)}
    difference = {f"control_model.{k}": v - base[k] if k in base else v for k, v in original.items()}
    assert any(k in base for k in original)
    put("controlnet", "diff.safetensors", difference | {"difference": torch.zeros(1)})
    put("controlnet", "whole.safetensors", original)
    model, clip, _ = out(
        "CheckpointLoaderSimple", ckpt_name=put("checkpoints", "a.safetensors", states("sd1"))
    )
    prompt = out("CLIPTextEncode", text="a house", clip=clip)

    def controlled(control: Any) -> Tensor:
        positive, negative = out(
            "ControlNetApplyAdvanced", positive=prompt, negative=prompt, control_net=control,
            image=torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)), strength=0.7,
            start_percent=0.0, end_percent=1.0,
        )  # fmt: skip
        return step(out, model, positive, negative)

    whole = controlled(out("ControlNetLoader", control_net_name="whole.safetensors"))
    diff = controlled(out("DiffControlNetLoader", model=model, control_net_name="diff.safetensors"))
    assert close(diff, whole)
    assert not close(step(out, model, prompt), whole, 1e-3)


def test_an_inpainting_controlnet(out: Out, put: Callable[..., str], control_state: File) -> None:
    """AliMama's takes the picture with a hole, and what is kept of it as one more channel. Others take the picture."""
    name = put("controlnet", "plain.safetensors", control_state)
    control = out("ControlNetLoader", control_net_name=name)
    picture = torch.rand(1, 20, 30, 3)
    mask = torch.zeros(1, 10, 15)
    mask[:, 2:6, 3:9] = 1.0

    def hint_of(control: Any) -> Any:
        positive, negative = out(
            "ControlNetInpaintingAliMamaApply", positive=[[torch.ones(1), {}]], negative=[[torch.ones(1), {}]],
            control_net=control, vae=None, image=picture, mask=mask, strength=0.6, start_percent=0.1,
            end_percent=0.9,
        )  # fmt: skip
        applied = positive[0][1]["control"]
        assert applied is negative[0][1]["control"]
        assert (applied.strength, applied.timestep_percent_range) == (0.6, (0.1, 0.9))
        return applied

    plain = hint_of(control)
    assert torch.equal(plain.cond_hint_original, picture.movedim(-1, 1))
    assert plain.extra_concat_orig == []
    control = control.copy()
    control.concat_mask = True
    hole = hint_of(control)
    assert torch.equal(hole.extra_concat_orig[0], 1 - mask[:, None])
    grown = torch.nn.functional.interpolate(1 - mask[:, None], (20, 30), mode="bilinear").round()
    assert torch.equal(hole.cond_hint_original, picture.movedim(-1, 1) * grown)


@pytest.mark.parametrize(("type", "number"), [("auto", []), ("openpose", [0]), ("repaint", [7])])
def test_the_type_of_a_union_controlnet(
    out: Out, put: Callable[..., str], control_state: File, type: str, number: list[int]
) -> None:
    control = out("ControlNetLoader", control_net_name=put("controlnet", "plain.safetensors", control_state))
    typed = out("SetUnionControlNetType", control_net=control, type=type)
    assert typed.extra_args == {"control_type": number}
    assert control.extra_args == {}


def test_boxes(out: Out, put: Callable[..., str], states: Any, tiny: ModuleType) -> None:
    """Texts in boxes go on the list that the prompt has, in latent units, as texts before their projection."""
    from comfyk_core_nodes.control.gligen import GatedSelfAttention, PositionNet

    def blank(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape) * (shape[-1] ** -0.5 if shape else 1.0)

    gate = GatedSelfAttention({"linear.weight": torch.empty(64, 64)})
    place = PositionNet(
        {
            "null_positive_feature": torch.empty(64),
            "null_position_feature": torch.empty(64),
            "linears.0.weight": torch.empty(32, 128),
            "linears.2.weight": torch.empty(64, 32),
        }
    )
    state = {f"position_net.{key}": blank(tuple(value.shape)) for key, value in place.state_dict().items()}
    for block in ("input_blocks.1", "middle_block", "output_blocks.2", "output_blocks.3"):
        for key, value in gate.state_dict().items():
            state[f"{block}.1.transformer_blocks.0.fuser.{key}"] = blank(tuple(value.shape))
    model = out("GLIGENLoader", gligen_name=put("gligen", "boxes.safetensors", state))
    clip = out("CheckpointLoaderSimple", ckpt_name=put("checkpoints", "a.safetensors", states("sd2")))[1]
    prompt = out("CLIPTextEncode", text="a room", clip=clip)
    boxed = prompt
    for text, width, height, x, y in (("a cat", 32, 40, 8, 16), ("a dog", 64, 70, 0, 5)):
        boxed = out(
            "GLIGENTextBoxApply", conditioning_to=boxed, clip=clip, gligen_textbox_model=model, text=text,
            width=width, height=height, x=x, y=y,
        )  # fmt: skip
    kind, applied, boxes = boxed[0][1]["gligen"]
    assert (kind, applied) == ("position", model)
    assert [box[1:] for box in boxes] == [(5, 4, 2, 1), (8, 8, 0, 0)]
    _, unprojected = clip.encode_from_tokens(clip.tokenize("a cat"), return_pooled="unprojected")
    assert torch.equal(boxes[0][0], unprojected)
    assert "gligen" not in prompt[0][1]
