"""The core node classes: schemas and thin `execute` methods, which are where torch is imported."""

from __future__ import annotations

from functools import cache

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

WITHOUT_TORCH = values.NODES


@cache
def ids_with_torch() -> frozenset[str]:
    """The ids of the nodes that compute with torch: all but those of `WITHOUT_TORCH`."""
    return frozenset(node.GET_SCHEMA().node_id for node in NODES if node not in WITHOUT_TORCH)
