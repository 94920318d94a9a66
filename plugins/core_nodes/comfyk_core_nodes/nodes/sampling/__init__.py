"""Nodes that sample, and those that make samplers, guiders and noise levels for them."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes.sampling import (
    custom_sampler,
    guiders,
    ksampler,
    lcm_samplers,
    published_schedules,
    samplers,
    schedulers,
    sde_samplers,
    sigmas,
)

NODES: tuple[type[io.ComfyNode], ...] = (
    *ksampler.NODES,
    *custom_sampler.NODES,
    *guiders.NODES,
    *samplers.NODES,
    *lcm_samplers.NODES,
    *sde_samplers.NODES,
    *schedulers.NODES,
    *published_schedules.NODES,
    *sigmas.NODES,
)
