"""Nodes that change what a model is conditioned on."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes.conditioning import (
    combine_and_place,
    controlnet,
    gligen,
    inpaint_and_edit,
    vision,
)

NODES: tuple[type[io.ComfyNode], ...] = (
    *combine_and_place.NODES,
    *inpaint_and_edit.NODES,
    *controlnet.NODES,
    *gligen.NODES,
    *vision.NODES,
)
