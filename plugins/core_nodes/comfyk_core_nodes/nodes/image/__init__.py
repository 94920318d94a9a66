"""Nodes that load, change and save pictures."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes.image import (
    batch,
    filter,
    load,
    save,
    save_formats,
    size,
    transform,
    upscale_model,
)

NODES: tuple[type[io.ComfyNode], ...] = (
    *load.NODES,
    *save.NODES,
    *size.NODES,
    *transform.NODES,
    *batch.NODES,
    *filter.NODES,
    *save_formats.NODES,
    *upscale_model.NODES,
)
