"""Nodes that load models from files."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes.loaders import lora, models

NODES: tuple[type[io.ComfyNode], ...] = (
    *models.NODES,
    *lora.NODES,
)
