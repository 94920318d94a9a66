"""The core node classes: schemas and thin `execute` methods, which are where torch is imported."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes.conditioning import (
    combine_and_place as conditioning,
)
from comfyk_core_nodes.nodes.conditioning import (
    controlnet,
    gligen,
    vision,
)
from comfyk_core_nodes.nodes.conditioning import (
    inpaint_and_edit as edit_models,
)
from comfyk_core_nodes.nodes.image import (
    batch as image_batch,
)
from comfyk_core_nodes.nodes.image import (
    filter as image_filter,
)
from comfyk_core_nodes.nodes.image import (
    load as load_image,
)
from comfyk_core_nodes.nodes.image import (
    save as save_image,
)
from comfyk_core_nodes.nodes.image import (
    save_formats,
    upscale_model,
)
from comfyk_core_nodes.nodes.image import (
    size as image,
)
from comfyk_core_nodes.nodes.image import (
    transform as image_transform,
)
from comfyk_core_nodes.nodes.latent import (
    batch as latent_batch,
)
from comfyk_core_nodes.nodes.latent import (
    files as latent_files,
)
from comfyk_core_nodes.nodes.latent import (
    math as latent_math,
)
from comfyk_core_nodes.nodes.latent import (
    size_and_place as latent,
)
from comfyk_core_nodes.nodes.latent import (
    transform as latent_transform,
)
from comfyk_core_nodes.nodes.latent import (
    vae,
)
from comfyk_core_nodes.nodes.loaders import lora
from comfyk_core_nodes.nodes.loaders import models as loaders
from comfyk_core_nodes.nodes.mask import masks as mask
from comfyk_core_nodes.nodes.model import flow_levels as flow_sampling
from comfyk_core_nodes.nodes.model import noise_levels as model_sampling
from comfyk_core_nodes.nodes.sampling import (
    custom_sampler,
    guiders,
    lcm_samplers,
    published_schedules,
    samplers,
    schedulers,
    sde_samplers,
    sigmas,
)
from comfyk_core_nodes.nodes.sampling import (
    ksampler as sampler,
)
from comfyk_core_nodes.nodes.text import prompts as text
from comfyk_core_nodes.nodes.values import preview, primitive

NODES: tuple[type[io.ComfyNode], ...] = (
    *load_image.NODES,
    *save_image.NODES,
    *image.NODES,
    *image_transform.NODES,
    *image_batch.NODES,
    *image_filter.NODES,
    *save_formats.NODES,
    *mask.NODES,
    *latent.NODES,
    *latent_transform.NODES,
    *latent_math.NODES,
    *latent_batch.NODES,
    *latent_files.NODES,
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
    *lcm_samplers.NODES,
    *sde_samplers.NODES,
    *schedulers.NODES,
    *published_schedules.NODES,
    *sigmas.NODES,
    *model_sampling.NODES,
    *flow_sampling.NODES,
    *controlnet.NODES,
    *gligen.NODES,
    *vision.NODES,
    *upscale_model.NODES,
)

__all__ = ["NODES"]
