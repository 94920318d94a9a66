"""The file: what was learned, in the layout of Stable Diffusion 1.x."""

from __future__ import annotations

from pathlib import Path

import torch
from comfyk_core_nodes.families.sd.diffusers_keys import diffusers_unet_to_original
from comfyk_core_nodes.vae.layouts import vae_state
from safetensors.torch import save_file
from torch import Tensor

from training.denoiser import Denoiser
from training.vae import GROUPS, new_vae

SCALE = 0.18215
"""What Stable Diffusion multiplies latents with."""
METADATA = {
    "modelspec.architecture": "stable-diffusion-v1",
    "modelspec.title": "comfyk's demo model",
    "modelspec.prediction_type": "v",
    "modelspec.license": "Apache-2.0",
    "norm_num_groups": str(GROUPS),
}


def checkpoint(work: Path) -> dict[str, Tensor]:
    """The weights by their names in a checkpoint of Stable Diffusion 1.x, in fp16."""
    network, vae = Denoiser(), new_vae()
    network.load_state_dict(torch.load(work / "denoiser.pt", weights_only=True)["average"])
    vae.load_state_dict(torch.load(work / "vae.pt", weights_only=True)["network"])
    _rescale(vae, float(torch.load(work / "scale.pt", weights_only=True)) / SCALE)
    unet = diffusers_unet_to_original(network.unet.state_dict())
    if unet is None:
        raise ValueError("the UNet has other layers than Stable Diffusion's")
    text = {name.removeprefix("text_model."): value for name, value in network.text.state_dict().items()}
    parts = {
        "model.diffusion_model.": unet,
        "first_stage_model.": vae_state(vae.state_dict()),
        "cond_stage_model.transformer.text_model.": text,
    }
    return {
        prefix + name: value.detach().to(torch.float16).contiguous().clone()
        for prefix, state in parts.items()
        for name, value in state.items()
        if value.is_floating_point()
    }


def export(work: Path, file: Path) -> None:
    """Write the checkpoint."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(checkpoint(work), file, METADATA)


@torch.no_grad()
def _rescale(vae: torch.nn.Module, by: float) -> None:
    """Let the latents be so many times as large, and the pictures the same."""
    into, out_of = vae.get_submodule("quant_conv"), vae.get_submodule("post_quant_conv")
    means = slice(0, 4)
    into.get_parameter("weight")[means] *= by
    into.get_parameter("bias")[means] *= by
    into.get_parameter("bias")[4:] += 2 * torch.log(torch.tensor(by))
    out_of.get_parameter("weight").div_(by)
