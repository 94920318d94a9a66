"""What attention is computed in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfyk_core_nodes.vae.autoencoder import AttnBlock
from comfyk_core_nodes.weights.attention import attention
from comfyk_core_nodes.weights.clip_encoder import EncoderAttention
from comfyk_core_nodes.weights.dtypes import should_upcast_attention
from torch import Tensor

from ..tiny_models import randomised

pytestmark = pytest.mark.usefixtures("seeded")

CUDA, MPS, CPU = torch.device("cuda:0"), torch.device("mps"), torch.device("cpu")


@pytest.mark.parametrize(("wanted", "on"), [("auto", {MPS}), ("always", {CUDA, MPS, CPU}), ("never", set())])
def test_where_attention_is_computed_in_fp32(use: Any, wanted: Any, on: set[torch.device]) -> None:
    use(attention_upcast=wanted)
    assert {device for device in (CUDA, MPS, CPU) if should_upcast_attention(device)} == on


def of_unet(x: Tensor) -> Tensor:
    return attention(x, x.flip(1), x.roll(1, 1), heads=4, mask=x[:, :, :9])


def of_text(x: Tensor) -> Tensor:
    return randomised(EncoderAttention(64, 4, causal=True)).to(x.dtype)(x)


def of_vae(x: Tensor) -> Tensor:
    return randomised(AttnBlock(64)).to(x.dtype)(x.movedim(1, 2).unflatten(2, (3, 3)))


@pytest.mark.parametrize("part", [of_unet, of_text, of_vae])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_attention_in_fp32(use: Any, part: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--force-upcast-attention`: torch is given fp32, and the result is in the model's dtype again."""
    given: list[torch.dtype] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, **others: Any) -> Tensor:
        given.extend(part.dtype for part in (q, k, v))
        return real(q, k, v, **others)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    x = torch.randn(2, 9, 64).to(dtype)
    for wanted, computed in (("always", torch.float32), ("never", dtype)):
        use(attention_upcast=wanted)
        given.clear()
        out = part(x)
        assert out.dtype == dtype
        assert set(given) == {computed}
