"""Style models against the same layers of torch."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyk_core_nodes.vision.style import load_style_model
from comfyk_core_nodes.weights.files import ModelFileError
from safetensors.torch import save_file
from torch import Tensor, nn

WIDTH, TEXT, TOKENS = 32, 24, 8


class TheirBlock(nn.Module):
    """A block of OpenAI's CLIP, by torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, 8, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(WIDTH, 4 * WIDTH), c_proj=nn.Linear(4 * WIDTH, WIDTH))
        )

    def forward(self, x: Tensor) -> Tensor:
        n = self.ln_1(x)
        x = x + self.attn(n, n, n)[0]
        h = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(h * torch.sigmoid(1.702 * h))


class TheirAdapter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer_layes = nn.Sequential(*(TheirBlock() for _ in range(3)))
        self.style_embedding = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.proj = nn.Parameter(torch.randn(WIDTH, TEXT))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.style_embedding.expand(len(x), -1, -1)], dim=1)
        return self.ln_post(self.transformer_layes(self.ln_pre(x))[:, -TOKENS:]) @ self.proj


def save(state: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def test_style_adapter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = TheirAdapter().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    model = load_style_model(save(theirs.state_dict(), tmp_path / "style.pth"))
    seen = torch.randn(2, 17, WIDTH)
    with torch.no_grad():
        ours, expected = model.get_cond(SimpleNamespace(last_hidden_state=seen)), theirs(seen)
    assert ours.shape == (2, TOKENS, TEXT)
    assert torch.allclose(ours, expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"width 32 sees; the one that is connected has the width 48"):
        model.get_cond(SimpleNamespace(last_hidden_state=torch.randn(1, 17, 48)))


def test_redux(tmp_path: Path) -> None:
    torch.manual_seed(0)
    up, down = nn.Linear(WIDTH, 3 * TEXT), nn.Linear(3 * TEXT, TEXT)
    state = {
        f"redux_{name}.{kind}": value
        for name, layer in (("up", up), ("down", down))
        for kind, value in layer.state_dict().items()
    }
    model = load_style_model(save(state, tmp_path / "redux.safetensors"))
    seen = torch.randn(2, 17, WIDTH)
    with torch.no_grad():
        expected = down(nn.functional.silu(up(seen)))
        assert torch.allclose(model.get_cond(SimpleNamespace(last_hidden_state=seen)), expected, atol=1e-5)


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    with pytest.raises(ModelFileError, match=r"odd.safetensors: expected a style model .* found a LoRA"):
        load_style_model(save({"x.lora_up.weight": torch.zeros(2)}, path))
    state = TheirAdapter().state_dict()
    for key in state:
        less = {name: value for name, value in state.items() if name != key}
        with pytest.raises(ModelFileError, match=r"odd.safetensors: expected a style model"):
            load_style_model(save(less, path))
