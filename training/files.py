"""Training states on disk, written so that one that is cut off can be gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def save_state(
    file: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int, **more: Any
) -> None:
    """Keep what is needed to go on after `steps` steps."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".new")
    torch.save(
        {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "steps": steps, **more}, beside
    )
    beside.replace(file)


def load_state(file: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Take up what `save_state` has kept; returns how many steps were made, 0 where nothing is."""
    if not file.exists():
        return 0
    state = torch.load(file, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["steps"])
