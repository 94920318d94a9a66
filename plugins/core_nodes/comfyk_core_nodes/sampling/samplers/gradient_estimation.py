"""Gradient estimation (Permenter and Yuan 2023, arXiv:2306.04848): Euler steps that look back at the last slope."""

from __future__ import annotations

from torch import Tensor

from comfyk_core_nodes.sampling.samplers.steps import Args, Callback, GuidedRun, Model, Run, levels, to_d


def sample_gradient_estimation(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    ge_gamma: float = 2.0,
    cfg_pp: bool = False,
) -> Tensor:
    """Algorithm 2 with `ge_gamma` for its gamma; 1 is Euler's method.

    With `cfg_pp` the slope is the unguided one (arXiv:2406.08070).
    """
    guided = GuidedRun(model, extra_args, callback) if cfg_pp else None
    run = guided or Run(model, extra_args, callback)
    last = None
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        if sigma_next == 0:
            return denoised
        slope = to_d(x, sigma, denoised if guided is None else guided.uncond)
        x = denoised + slope * sigma_next
        if last is not None:
            x = x + (ge_gamma - 1) * (slope - last) * (sigma_next - sigma)
        last = slope
    return x


def sample_gradient_estimation_cfg_pp(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    ge_gamma: float = 2.0,
) -> Tensor:
    """`sample_gradient_estimation` for CFG++."""
    return sample_gradient_estimation(model, x, sigmas, extra_args, callback, disable, ge_gamma, cfg_pp=True)
