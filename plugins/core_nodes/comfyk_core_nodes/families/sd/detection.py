"""What network a state dict holds, by its key names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from comfyk_core_nodes.weights.state_dict import count_blocks, with_prefix

_FIRST = "input_blocks.0.0.weight"


def _depth(state: Mapping[str, Tensor], block: str) -> int:
    return count_blocks(state, f"{block}.1.transformer_blocks." + "{}")


def unet_config(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Any] | None:
    """The numbers of the UNet under `prefix` (see `unet.UNetShape`), or None where there is none.

    The number of attention heads is in no weight: it is 8 where the transformers are entered by convolutions (1.x),
    and a head for 64 channels elsewhere.
    """
    if prefix:
        state = with_prefix(state, prefix)
    if _FIRST not in state:
        return None
    model_channels, in_channels = state[_FIRST].shape[:2]
    out = state.get("out.2.weight")
    num_res_blocks, channel_mult, depths, depths_output = [0], [1], [], []
    blocks = count_blocks(state, "input_blocks.{}.")
    for number in range(1, blocks):
        block = f"input_blocks.{number}"
        if f"{block}.0.op.weight" in state:
            num_res_blocks.append(0)
            channel_mult.append(channel_mult[-1])
        elif f"{block}.0.in_layers.0.weight" in state:
            num_res_blocks[-1] += 1
            channel_mult[-1] = state[f"{block}.0.out_layers.3.weight"].shape[0] // model_channels
            depths.append(_depth(state, block))
    output_blocks = count_blocks(state, "output_blocks.{}.")
    depths_output = [_depth(state, f"output_blocks.{number}") for number in reversed(range(output_blocks))]
    middle = -2
    if "middle_block.1.proj_in.weight" in state:
        middle = count_blocks(state, "middle_block.1.transformer_blocks.{}")
    elif "middle_block.0.in_layers.0.weight" in state:
        middle = -1
    attention = next((key[: -len("attn2.to_k.weight")] for key in state if _is_cross_key(key)), None)
    context_dim, linear = None, False
    if attention is not None:
        context_dim = state[f"{attention}attn2.to_k.weight"].shape[1]
        entry = attention[: attention.index("transformer_blocks.")] + "proj_in.weight"
        linear = entry in state and state[entry].ndim == 2
    config: dict[str, Any] = {
        "in_channels": in_channels,
        "model_channels": model_channels,
        "out_channels": 4 if out is None else out.shape[0],
        "num_res_blocks": num_res_blocks,
        "channel_mult": channel_mult,
        "transformer_depth": depths,
        "transformer_depth_output": depths_output,
        "transformer_depth_middle": middle,
        "context_dim": context_dim,
        "use_linear_in_transformer": linear,
        "adm_in_channels": None,
        "num_heads": -1 if linear else 8,
        "num_head_channels": 64 if linear else -1,
    }
    if "label_emb.0.0.weight" in state:
        config["num_classes"] = "sequential"
        config["adm_in_channels"] = state["label_emb.0.0.weight"].shape[1]
    elif "label_emb.weight" in state:
        config["num_classes"] = state["label_emb.weight"].shape[0]
    disabled = _disabled_self_attention(state, num_res_blocks)
    if any(disabled):
        config["disable_self_attentions"] = disabled
        config["num_heads"], config["num_head_channels"] = 8, -1
    return config


def _is_cross_key(key: str) -> bool:
    return key.startswith("input_blocks.") and key.endswith("transformer_blocks.0.attn2.to_k.weight")


def _disabled_self_attention(state: Mapping[str, Tensor], num_res_blocks: list[int]) -> list[bool]:
    """For each level whether its first attention looks at the text as well: its keys are as wide as the text."""
    disabled, number = [], 1
    for count in num_res_blocks:
        names = (f"input_blocks.{number + i}.1.transformer_blocks.0.attn1" for i in range(count))
        name = next((name for name in names if f"{name}.to_k.weight" in state), None)
        disabled.append(
            name is not None
            and state[f"{name}.to_k.weight"].shape[1] != state[f"{name}.to_q.weight"].shape[1]
        )
        number += count + 1
    return disabled
