"""The core node classes: schemas and thin `execute` methods, which are where torch is imported."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes import (
    conditioning,
    controlnet,
    custom_sampler,
    edit_models,
    gligen,
    guiders,
    image,
    load_image,
    loaders,
    lora,
    mask,
    model_sampling,
    preview,
    primitive,
    sampler,
    samplers,
    save_image,
    schedulers,
    sde_samplers,
    sigmas,
    text,
    upscale_model,
    vae,
    vision,
)

NODES: tuple[type[io.ComfyNode], ...] = (
    *load_image.NODES,
    *save_image.NODES,
    *image.NODES,
    *mask.NODES,
    *primitive.NODES,
    *preview.NODES,
    *loaders.NODES,
    *lora.NODES,
    *text.NODES,
    *conditioning.NODES,
    *vae.NODES,
    *edit_models.NODES,
    *sampler.NODES,
    *custom_sampler.NODES,
    *guiders.NODES,
    *samplers.NODES,
    *sde_samplers.NODES,
    *schedulers.NODES,
    *sigmas.NODES,
    *model_sampling.NODES,
    *controlnet.NODES,
    *gligen.NODES,
    *vision.NODES,
    *upscale_model.NODES,
)

__all__ = ["NODES"]
