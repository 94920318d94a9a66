"""Style models: what a vision model saw in a picture, as tokens to put after those of a prompt.

Two kinds: the T2I-Adapter's style adapter for Stable Diffusion 1.x (Mou et al. 2023, arXiv:2302.08453), and Flux
Redux (Black Forest Labs 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comfyk_core_nodes.devices.device import (
    intermediate_device,
    text_encoder_device,
    text_encoder_offload_device,
)
from comfyk_core_nodes.memory.managed import managed
from comfyk_core_nodes.vision.residual_attention import attention_blocks, split_in_projections
from comfyk_core_nodes.weights.build import Path, build, reading
from comfyk_core_nodes.weights.contents import describe
from comfyk_core_nodes.weights.files import ModelFileError, load_torch_file
from comfyk_core_nodes.weights.layers import LayerNorm, Linear
from comfyk_core_nodes.weights.mapped_files import check_all_there

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher

EXPECTED = "a style model (T2I-Adapter style, Flux Redux)"


class StyleAdapter(nn.Module):
    """Tokens of its own that attend to those of the picture, then are brought to the width of the text."""

    def __init__(self, state: Mapping[str, Tensor], device: Any = None) -> None:
        super().__init__()
        _, self.num_token, width = state["style_embedding"].shape
        self.transformer_layes = attention_blocks(state, "transformer_layes", device)
        self.style_embedding = nn.Parameter(
            torch.empty(1, self.num_token, width, device=device), requires_grad=False
        )
        self.ln_post = LayerNorm(width, device=device)
        self.ln_pre = LayerNorm(width, device=device)
        self.proj = nn.Parameter(torch.empty(state["proj"].shape, device=device), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, D]` to `[B, num_token, width of the text]`."""
        if x.shape[-1] != self.style_embedding.shape[-1]:
            raise ValueError(_wrong_vision(self.style_embedding.shape[-1], x.shape[-1]))
        style = self.style_embedding.to(x).expand(x.shape[0], -1, -1)
        x = self.transformer_layes(self.ln_pre(torch.cat([x, style], dim=1)))
        return self.ln_post(x[:, -self.num_token :]) @ self.proj.to(x)


class ReduxImageEncoder(nn.Module):
    """Two layers for each token of SigLIP."""

    def __init__(self, state: Mapping[str, Tensor], device: Any = None) -> None:
        super().__init__()
        inner, width = state["redux_up.weight"].shape
        self.width = width
        self.redux_up = Linear(width, inner, device=device)
        self.redux_down = Linear(inner, state["redux_down.weight"].shape[0], device=device)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, D]` to `[B, N, width of the text]`."""
        if x.shape[-1] != self.width:
            raise ValueError(_wrong_vision(self.width, x.shape[-1]))
        return self.redux_down(F.silu(self.redux_up(x)))


def _wrong_vision(wanted: int, found: int) -> str:
    return (
        f"this style model takes what a CLIP vision model of width {wanted} sees; "
        f"the one that is connected has the width {found}"
    )


class StyleModel:
    """`model` is the network, `patcher` its ModelPatcher."""

    patcher: ModelPatcher

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        device = text_encoder_device()
        self.patcher = managed(model, device, text_encoder_offload_device(), torch.float32, torch.float32)

    def get_cond(self, input: Any) -> Tensor:
        """The tokens `[B, T, D]` for what a vision model saw (`ClipVisionOutput`)."""
        from comfyk_core_nodes.memory.manager import load_models_gpu

        load_models_gpu([self.patcher])
        tokens = self.model(input.last_hidden_state.to(self.patcher.load_device).float())
        check_all_there()
        return tokens.to(intermediate_device())


def load_style_model(path: Path) -> StyleModel:
    """The style model in a file. Raises ModelFileError for a file that holds something else."""
    state, _ = load_torch_file(path)
    with reading(path, EXPECTED):
        if "style_embedding" in state:
            own = split_in_projections(state)
            return StyleModel(build(lambda: StyleAdapter(own), own))
        if "redux_down.weight" in state:
            return StyleModel(build(lambda: ReduxImageEncoder(state), state))
    raise ModelFileError(path, EXPECTED, describe(state))
