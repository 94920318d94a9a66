"""The core node classes: schemas and thin `execute` methods, which are where torch is imported."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes import image, load_image, mask, preview, primitive, save_image

NODES: tuple[type[io.ComfyNode], ...] = (
    *load_image.NODES,
    *save_image.NODES,
    *image.NODES,
    *mask.NODES,
    *primitive.NODES,
    *preview.NODES,
)

__all__ = ["NODES"]
