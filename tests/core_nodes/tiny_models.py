"""Tiny random models with the layouts of the real ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

StateDict = dict[str, Tensor]


def randomised(module: nn.Module) -> nn.Module:
    """The module with weights that make every layer matter."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.2)
        else:
            fan_in = parameter[0].numel()
            nn.init.normal_(parameter, 0.0, fan_in**-0.5)
    return module.eval().requires_grad_(False)


def make_unet(family: str, in_channels: int = 4) -> nn.Module:
    from comfyk_core_nodes.families.sd.unet import UNetModel

    common = {"in_channels": in_channels, "model_channels": 32, "out_channels": 4}
    if family == "sdxl":
        shape = {
            "num_res_blocks": [1, 1, 1],
            "channel_mult": [1, 2, 2],
            "transformer_depth": [0, 1, 2],
            "transformer_depth_output": [0, 0, 1, 1, 2, 2],
            "transformer_depth_middle": 2,
            "context_dim": 64 + 64,
            "num_classes": "sequential",
            "adm_in_channels": 48 + 6 * 256,
        }
    elif family == "sdxl_refiner":
        shape = {
            "num_res_blocks": [1, 1, 1, 1],
            "channel_mult": [1, 1, 2, 2],
            "transformer_depth": [0, 1, 1, 0],
            "transformer_depth_output": [0, 0, 1, 1, 1, 1, 0, 0],
            "transformer_depth_middle": 1,
            "context_dim": 64,
            "num_classes": "sequential",
            "adm_in_channels": 48 + 5 * 256,
        }
    else:
        shape = {
            "num_res_blocks": [1, 1],
            "channel_mult": [1, 2],
            "transformer_depth": [1, 0],
            "transformer_depth_output": [1, 1, 0, 0],
            "transformer_depth_middle": 1,
            "context_dim": 64,
        }
    linear = family != "sd1"
    heads = (
        {"num_heads": -1, "num_head_channels": 64} if linear else {"num_heads": 8, "num_head_channels": -1}
    )
    return randomised(UNetModel(**common, **shape, **heads, use_linear_in_transformer=linear))


def make_vae() -> nn.Module:
    from comfyk_core_nodes.vae.autoencoder import AutoencoderKL

    shape = {"ch": 32, "ch_mult": [1, 1, 2, 2], "num_res_blocks": 1}
    return randomised(
        AutoencoderKL(
            encoder={"in_channels": 3, "out": 8, **shape},
            decoder={"z_channels": 4, "out": 3, **shape},
            embed_dim=4,
        )
    )


def make_text(projection: int | None) -> nn.Module:
    from comfyk_core_nodes.text.clip_model import CLIPTextModel

    model = CLIPTextModel(49408, 77, 64, 3, 128, projection, quick_gelu=projection is None)
    return randomised(model)


def to_openclip(state: StateDict) -> StateDict:
    """The names that OpenCLIP gives the weights of a text model of `transformers`."""
    out: StateDict = {}
    for key, value in state.items():
        name = key.removeprefix("text_model.")
        if key == "text_projection.weight":
            out["text_projection"] = value.T.contiguous()
        elif "_proj." in name and "out_proj" not in name:
            continue
        else:
            for theirs, ours in (
                ("embeddings.position_embedding.weight", "positional_embedding"),
                ("embeddings.token_embedding.weight", "token_embedding.weight"),
                ("final_layer_norm", "ln_final"),
                ("encoder.layers", "transformer.resblocks"),
                ("layer_norm", "ln_"),
                ("self_attn", "attn"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                name = name.replace(theirs, ours)
            out[name] = value
    layers = {key.split(".")[3] for key in state if key.startswith("text_model.encoder.layers.")}
    for layer in layers:
        for kind in ("weight", "bias"):
            parts = [f"text_model.encoder.layers.{layer}.self_attn.{x}_proj.{kind}" for x in "qkv"]
            out[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat([state[p] for p in parts])
    return out


def prefixed(prefix: str, state: StateDict) -> StateDict:
    return {prefix + key: value.clone() for key, value in state.items()}


def make_checkpoint(family: str, in_channels: int = 4) -> StateDict:
    state = prefixed("model.diffusion_model.", make_unet(family, in_channels).state_dict())
    state |= prefixed("first_stage_model.", make_vae().state_dict())
    if family == "sd1":
        state |= prefixed("cond_stage_model.transformer.", make_text(None).state_dict())
    elif family == "sd2":
        state |= prefixed("cond_stage_model.model.", to_openclip(make_text(64).state_dict()))
    elif family == "sdxl":
        state |= prefixed("conditioner.embedders.0.transformer.", make_text(None).state_dict())
        state |= prefixed("conditioner.embedders.1.model.", to_openclip(make_text(48).state_dict()))
    else:
        state |= prefixed("conditioner.embedders.0.model.", to_openclip(make_text(48).state_dict()))
    return state
