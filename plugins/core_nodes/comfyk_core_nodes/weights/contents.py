"""What a file of weights looks like, in words, for somebody who expected something else."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

LORA = "a LoRA (put it in models/loras)"
"""What `describe` calls one."""
_LORA_MARKS = (
    *("lora_up", "lora_down", "lora_A", "lora_B", "lora_unet_", "lora_te", "lora.up.", "lora.down."),
    *("lora_linear_layer", "lycoris_", "hada_w1", "lokr_w1", "lokr_w2", "oft_blocks", ".on_input"),
)
_BESIDE_UNET = ("first_stage_model.", "cond_stage_model.", "conditioner.")
"""Where the VAE and the text encoders are in a whole checkpoint."""


def describe(state: Mapping[str, Tensor]) -> str:
    """What a state dict looks like to somebody who expected something else."""
    unet = "model.diffusion_model.input_blocks."
    if any(key.startswith(unet) for key in state) and any(key.startswith(_BESIDE_UNET) for key in state):
        return "a whole checkpoint of Stable Diffusion (put it in models/checkpoints)"
    kinds = (
        (LORA, _LORA_MARKS),
        (
            "a ControlNet (put it in models/controlnet)",
            ("control_model.", "controlnet_cond_embedding", "zero_convs."),
        ),
        ("a VAE (put it in models/vae)", ("decoder.conv_in", "decoder.mid.")),
        ("a UNet alone (put it in models/diffusion_models)", ("input_blocks.0.0", "down_blocks.0.")),
        (
            "a transformer model, as SD3 and Flux are",
            ("joint_blocks.", "double_blocks.", "transformer_blocks.0.attn"),
        ),
        (
            "a text encoder (put it in models/text_encoders)",
            ("text_model.encoder.", "resblocks.", "encoder.block."),
        ),
        ("an upscale model (put it in models/upscale_models)", ("RRDB_trunk", "body.0.rdb", "conv_first")),
    )
    for name, marks in kinds:
        if any(mark in key for key in state for mark in marks):
            return name
    some = ", ".join(list(state)[:3])
    return f"{len(state)} tensors of something else ({some} ...)" if state else "no tensors"
