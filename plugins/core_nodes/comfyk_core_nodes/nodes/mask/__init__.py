"""Nodes that make and change masks."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes.mask import masks

NODES: tuple[type[io.ComfyNode], ...] = (*masks.NODES,)
