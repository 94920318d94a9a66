"""RES: the refined exponential solver, as a second-order multistep method (Zhang et al. 2023, arXiv:2308.02157)."""

from __future__ import annotations

from torch import Tensor

from comfyk_core_nodes.sampling.brownian import NoiseSampler
from comfyk_core_nodes.sampling.samplers.steps import (
    Args,
    Callback,
    GuidedRun,
    Model,
    Run,
    ancestral_step,
    levels,
    phi,
    to_d,
)


def _multistep(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None,
    callback: Callback | None,
    s_noise: float,
    noise_sampler: NoiseSampler | None,
    eta: float,
    cfg_pp: bool,
) -> Tensor:
    """With `cfg_pp` the history is of unguided latents, and `x` is moved by what guidance adds (arXiv:2406.08070)."""
    guided = GuidedRun(model, extra_args, callback) if cfg_pp else None
    run = guided or Run(model, extra_args, callback)
    noise = run.noise_sampler(x, noise_sampler)
    strength = run.noise_strength(s_noise)
    last: tuple[Tensor, Tensor] | None = None
    for i, sigma, sigma_next in levels(sigmas):
        denoised = run.step(i, x, sigma)
        result = denoised if guided is None else guided.uncond
        down, up = ancestral_step(sigma, sigma_next, eta)
        h = (sigma / down).log()
        if down == 0 or h == 0 or last is None:
            x = denoised + to_d(x, sigma, result) * down
        else:
            older, c_2 = last[0], -last[1] / h
            phi_1, phi_2 = phi(-h, 2)
            change = (phi_1 - phi_2 / c_2) * result + phi_2 / c_2 * older
            x = down / sigma * (x + (denoised - result)) + h * change
        if up > 0:
            x = x + noise(sigma, sigma_next) * (strength * up)
        if h != 0:
            last = result, h
    return x


def sample_res_multistep(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Without noise. Order 2."""
    return _multistep(model, x, sigmas, extra_args, callback, s_noise, noise_sampler, 0.0, cfg_pp=False)


def sample_res_multistep_cfg_pp(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Without noise, for CFG++."""
    return _multistep(model, x, sigmas, extra_args, callback, s_noise, noise_sampler, 0.0, cfg_pp=True)


def sample_res_multistep_ancestral(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """To below the next level, and noise up to it."""
    return _multistep(model, x, sigmas, extra_args, callback, s_noise, noise_sampler, eta, cfg_pp=False)


def sample_res_multistep_ancestral_cfg_pp(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """To below the next level, and noise up to it, for CFG++."""
    return _multistep(model, x, sigmas, extra_args, callback, s_noise, noise_sampler, eta, cfg_pp=True)
