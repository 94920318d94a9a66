"""Style models: what was seen in pictures, as tokens behind a prompt."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from comfyk_core_nodes.sampling.conditioning import Conditioning, NewConditioning

if TYPE_CHECKING:
    from torch import Tensor


def add_style(
    conditioning: Conditioning, tokens: Tensor, strength: float, strength_type: str
) -> NewConditioning:
    """Each prompt `[1, T, D]` followed by `tokens` `[B, N, D]`, all in one: `[1, T + B * N, D]`.

    `multiply` scales the tokens; `attn_bias` adds the logarithm of `strength` to the attention that others pay them,
    in `attention_mask`, `[1, S, S]` over the prompt, the tokens, and the picture, `attention_mask_img_shape`.
    """
    import torch

    tokens = tokens.flatten(0, 1).unsqueeze(0)
    biased = strength_type == "attn_bias"
    if not biased:
        tokens = tokens * strength
    edited = []
    for prompt, options in conditioning:
        options = dict(options)
        if "attention_mask" in options or (biased and strength != 1.0):
            size = options.get("attention_mask_img_shape", (1, 1))
            before = options.get("attention_mask")
            mask = _widened(before, prompt, size[0] * size[1], tokens.shape[1])
            bias = (math.log(strength) if strength > 0 else -math.inf) if biased else 0.0
            here = slice(prompt.shape[1], prompt.shape[1] + tokens.shape[1])
            mask[:, : here.start, here] = bias
            mask[:, here.stop :, here] = bias
            options["attention_mask"] = mask.to(prompt.device)
            options["attention_mask_img_shape"] = size
        edited.append([torch.cat((prompt, tokens), dim=1), options])
    return edited


def _widened(mask: Tensor | None, prompt: Tensor, picture: int, added: int) -> Tensor:
    """A mask with zeros for `added` tokens between prompt and picture; a boolean one becomes a bias."""
    import torch

    text = prompt.shape[1]
    total = text + picture
    if mask is None:
        mask = torch.zeros(prompt.shape[0], total, total, dtype=torch.float16)
    elif mask.dtype == torch.bool:
        mask = mask.to(torch.float16).log()
    kept = torch.cat((torch.arange(text), torch.arange(text + added, total + added)))
    wide = torch.zeros(prompt.shape[0], total + added, total + added, dtype=torch.float16)
    wide[:, kept[:, None], kept] = mask.to(wide)
    return wide
