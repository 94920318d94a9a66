"""The core node classes: schemas and thin `execute` methods, which are where torch is imported."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes import conditioning, image, latent, loaders, mask, model, sampling, text, values

NODES: tuple[type[io.ComfyNode], ...] = (
    *image.NODES,
    *mask.NODES,
    *latent.NODES,
    *values.NODES,
    *loaders.NODES,
    *text.NODES,
    *conditioning.NODES,
    *sampling.NODES,
    *model.NODES,
)
