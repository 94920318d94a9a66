"""Nodes for plain values, and for looking at what a link carries. None of them needs torch."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes.values import preview, primitive

NODES: tuple[type[io.ComfyNode], ...] = (
    *primitive.NODES,
    *preview.NODES,
)
