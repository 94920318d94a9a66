"""A plugin that adds a family of diffusion models: the example of `docs/families.md`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfyk import hookimpl
from comfyk_core_nodes.families.family import Family, Layout
from comfyk_core_nodes.families.sd.registrations import TEXT_SD1

FIRST = "read.weight"


@hookimpl
def comfyk_register_model_families(families: Any) -> None:
    families.add(TINY_FLOW)


def prefix(weights: Any) -> str | None:
    return next((prefix for prefix in ("model.diffusion_model.", "") if prefix + FIRST in weights), None)


def sizes(weights: Any) -> dict[str, int]:
    width, channels = weights[FIRST].shape[:2]
    return {"channels": channels, "width": width, "context_dim": weights["text.weight"].shape[1]}


def model(config: Any, device: Any) -> Any:
    import torch.nn.functional as F
    from comfyk_core_nodes.families.base_model import BaseModel
    from comfyk_core_nodes.weights.layers import Conv2d, Linear
    from torch import Tensor, nn

    class TinyFlow(nn.Module):
        def __init__(self, channels: int, width: int, context_dim: int, device: Any) -> None:
            super().__init__()
            self.read = Conv2d(channels, width, 3, padding=1, device=device)
            self.time = Linear(1, width, device=device)
            self.text = Linear(context_dim, width, device=device)
            self.write = Conv2d(width, channels, 3, padding=1, device=device)

        def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_: Any) -> Tensor:
            """The velocity of `x` `[B, C, H, W]` at `timesteps` `[B]`, given prompts `[B, T, D]`."""
            told = self.time(timesteps[:, None].to(x) / 1000) + self.text(context.mean(dim=1))
            return self.write(F.silu(self.read(x) + told[:, :, None, None]))

    return BaseModel(config, device, unet_model=TinyFlow)


def latents() -> Any:
    from comfyk_core_nodes.latents.format import LatentFormat

    class TinyFlowLatents(LatentFormat):
        scale_factor = 0.5
        latent_channels = 16

    return TinyFlowLatents()


TINY_FLOW = Family(
    name="tiny_flow",
    title="Tiny Flow",
    layout=Layout("Tiny Flow", "network", prefix, sizes),
    matches=lambda sizes: True,
    model=model,
    latent_format=latents,
    text=replace(TEXT_SD1, places=(("clip_l", "text_encoders.clip_l."),), width=None),
    prediction="flow",
    sampling_defaults={"shift": 2.0},
    memory_factor=0.1,
)
