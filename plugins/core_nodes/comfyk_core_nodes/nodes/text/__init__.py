"""Nodes that encode prompts."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes.text import prompts

NODES: tuple[type[io.ComfyNode], ...] = (*prompts.NODES,)
