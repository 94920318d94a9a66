"""Nodes that change how a model is run."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes.model import flow_levels, noise_levels

NODES: tuple[type[io.ComfyNode], ...] = (
    *noise_levels.NODES,
    *flow_levels.NODES,
)
