"""Under which names LoRA files speak of the layers of a diffusion model: see `text.lora_keys`. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from comfyk_core_nodes.text.lora_keys import KeyMap

PREFIX = "diffusion_model."


def plain_lora_keys(model: nn.Module) -> KeyMap:
    """The names that all families share: the keys of `model.diffusion_model` themselves, and kohya's of them."""
    names: KeyMap = {}
    for key in model.state_dict():
        if not key.startswith(PREFIX):
            continue
        layer, _, ending = key.rpartition(".")
        if ending == "weight":
            names[f"lora_unet_{layer.removeprefix(PREFIX).replace('.', '_')}"] = key
            names[layer] = key
        else:
            names[key] = key
    return names
