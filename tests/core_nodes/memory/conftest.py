"""Small models of both kinds of layers, and a CPU that has only so much memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from comfyk_core_nodes.devices import device as devices
from comfyk_core_nodes.memory import manager
from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.memory.residency import residency_of
from comfyk_core_nodes.weights import layers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CPU = torch.device("cpu")
GPU = torch.device("cpu:1")
"""torch computes on it as on the CPU, but it compares unequal."""


class OwnLayers(nn.Module):
    """A net of the layers that make compute copies, with a buffer."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = layers.Linear(width, width)
        self.norm = layers.LayerNorm(width)
        self.conv = layers.Conv2d(width, width, 3, padding=1)
        self.last = layers.Linear(width, width)
        self.register_buffer("scale", torch.tensor(2.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, width]` to the same."""
        y = self.norm(self.first(x))
        y = self.conv(y.movedim(-1, 1).unsqueeze(-1)).squeeze(-1).movedim(1, -1)
        return self.last(y) * float(self.scale)


class TorchLayers(nn.Module):
    """A net as node packs have them: torch's own layers, and a parameter of its own."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.last = nn.Linear(width, width)
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        return self.last(self.attention(y, y, y, need_weights=False)[0]) * self.gain


def build(
    kind: Callable[..., nn.Module] = OwnLayers, seed: int = 0, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """A net with seeded random weights in `dtype`."""
    model = kind()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        path, _, last = name.rpartition(".")
        random = torch.randn(parameter.shape, generator=generator) * 0.3
        target = model.get_submodule(path)
        setattr(target, last, nn.Parameter(random.to(dtype), requires_grad=False))
    return model


def patcher_of(model: nn.Module, device: torch.device = CPU, **options: torch.dtype) -> ModelPatcher:
    return ModelPatcher(model, device, CPU, **options)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class BudgetedCpu(devices.Device):
    """A CPU that has `limit` bytes for weights; putting a tensor there copies it, as it does on a GPU."""

    limit: int = 0
    taken: list[int] = field(default_factory=list)
    """Bytes that something else takes."""

    def total(self) -> int:
        return self.limit

    def free(self) -> int:
        states = [residency_of(model) for model in manager.loaded_models()]
        loaded = sum(state.loaded_bytes for state in states if state.wanted and state.wanted.device is self)
        return self.limit - loaded - sum(self.taken)

    def put(self, tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return tensor.detach().to(dtype=dtype or tensor.dtype, copy=True)


@pytest.fixture
def budgeted(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], BudgetedCpu]:
    """`budgeted(bytes)` makes GPU a device of that size, of which nothing is reserved."""

    def make(limit: int) -> BudgetedCpu:
        device = BudgetedCpu(GPU, limit=limit)
        monkeypatch.setitem(devices._devices, GPU, device)
        return device

    monkeypatch.setattr(manager, "minimum_inference_memory", lambda: 0)
    monkeypatch.setattr(manager, "reserved_memory", lambda: 0)
    return make


@pytest.fixture(autouse=True)
def _nothing_loaded(nothing_loaded: None) -> None:
    """For every test here."""


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """The bits of the model's weights as they are now."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype
        and torch.equal(a[key].reshape(-1).view(torch.uint8), b[key].reshape(-1).view(torch.uint8))
        for key in a
    )


def from_file(model: nn.Module, path: Path) -> dict[str, int]:
    """Put views of a mapped file in place of the model's weights. Returns where each begins in memory."""
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    state = load_file(path)
    model.load_state_dict(state, assign=True)
    return {key: value.data_ptr() for key, value in model.state_dict().items()}
