"""Nodes that make and change latents, and those between latents and pictures."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes.latent import batch, files, math, size_and_place, transform, vae

NODES: tuple[type[io.ComfyNode], ...] = (
    *size_and_place.NODES,
    *transform.NODES,
    *math.NODES,
    *batch.NODES,
    *files.NODES,
    *vae.NODES,
)
