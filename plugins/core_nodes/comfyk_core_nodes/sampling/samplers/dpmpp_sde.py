"""DPM-Solver++ for the diffusion SDE (Lu et al. 2022, arXiv:2211.01095, sec. 4.2 and appendix A).

`eta` is the share of the reverse process's noise. The noise is the increments of one Brownian path, so that more steps
refine a picture and do not change it. `_gpu` draws the path on the latent's device, the others on the CPU. Time is
lambda, half the log SNR.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from comfyk_core_nodes.sampling.brownian import NoiseSampler
from comfyk_core_nodes.sampling.samplers.steps import (
    Args,
    Callback,
    Model,
    Run,
    ancestral_step,
    check_distinct,
    half_log_snr,
    levels,
    off_pure_noise,
    sigma_at,
)


def sample_dpmpp_sde(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    r: float = 1 / 2,
) -> Tensor:
    """SDE-DPM-Solver++(2S): a stage at the share `r` of the step, with noise of its own. Two evaluations a step."""
    if len(sigmas) <= 1:
        return x
    run = Run(model, extra_args, callback)
    noise = run.brownian(x, sigmas, noise_sampler)
    strength = run.noise_strength(s_noise)
    flow = run.flow

    def towards(x: Tensor, sigma: Tensor, target: Tensor, denoised: Tensor) -> Tensor:
        """From `sigma` to `target` as if `denoised` was right all the way, with the noise in between."""
        start, end = half_log_snr(sigma, flow), half_log_snr(target, flow)
        alpha, alpha_target = sigma * start.exp(), target * end.exp()
        down, up = ancestral_step((-start).exp(), (-end).exp(), eta)
        kept = down * start.exp()
        out = alpha_target / alpha * kept * x + alpha_target * (1 - kept) * denoised
        if eta > 0 and s_noise > 0:
            out = out + noise(sigma, target) * (alpha_target * strength * up)
        return out

    for i, sigma, sigma_next in levels(off_pure_noise(sigmas, run.sampling)):
        denoised = run.step(i, x, sigma)
        if sigma_next == 0:
            return denoised
        stage = torch.lerp(half_log_snr(sigma, flow), half_log_snr(sigma_next, flow), r)
        sigma_stage = sigma_at(stage, flow)
        denoised_stage = run.denoise(towards(x, sigma, sigma_stage, denoised), sigma_stage)
        x = towards(x, sigma, sigma_next, torch.lerp(denoised, denoised_stage, 1 / (2 * r)))
    return x


def _multistep_sde(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None,
    callback: Callback | None,
    eta: float,
    s_noise: float,
    noise_sampler: NoiseSampler | None,
    correction: Callable[[Tensor, list[Tensor], list[Tensor]], Tensor | float],
) -> Tensor:
    """The first-order SDE step with a `correction` from past steps.

    `correction(h_eta, lengths, denoised)` gets `(1 + eta) * h`, and the lengths in lambda and the results of this step
    and up to two before it, newest first. What it gives is multiplied by alpha.
    """
    if len(sigmas) <= 1:
        return x
    run = Run(model, extra_args, callback)
    noise = run.brownian(x, sigmas, noise_sampler)
    strength = run.noise_strength(s_noise)
    lengths: list[Tensor] = []
    results: list[Tensor] = []
    for i, sigma, sigma_next in levels(off_pure_noise(sigmas, run.sampling)):
        results = [run.step(i, x, sigma), *results[:2]]
        if sigma_next == 0:
            return results[0]
        start, end = half_log_snr(sigma, run.flow), half_log_snr(sigma_next, run.flow)
        h = end - start
        lengths = [h, *lengths[:2]]
        h_eta = h * (eta + 1)
        alpha = sigma_next * end.exp()
        change = correction(h_eta, lengths, results) - torch.expm1(-h_eta) * results[0]
        x = sigma_next / sigma * (-h * eta).exp() * x + alpha * change
        if eta > 0 and s_noise > 0:
            up = sigma_next * (-torch.expm1(-2 * h * eta)).sqrt()
            x = x + noise(sigma, sigma_next) * (up * strength)
    return x


def _midpoint(h_eta: Tensor, lengths: list[Tensor], results: list[Tensor]) -> Tensor | float:
    if len(results) < 2:
        return 0.0
    return -0.5 * torch.expm1(-h_eta) * (lengths[0] / lengths[1]) * (results[0] - results[1])


def _phi_2(h_eta: Tensor) -> Tensor:
    return torch.expm1(-h_eta) / h_eta + 1


def _heun(h_eta: Tensor, lengths: list[Tensor], results: list[Tensor]) -> Tensor | float:
    if len(results) < 2:
        return 0.0
    return _phi_2(h_eta) * (lengths[0] / lengths[1]) * (results[0] - results[1])


def _third_order(h_eta: Tensor, lengths: list[Tensor], results: list[Tensor]) -> Tensor | float:
    """Newton's divided differences of the last three results, of two after the second step."""
    if len(results) < 3:
        return _heun(h_eta, lengths, results)
    r_0, r_1 = lengths[1] / lengths[0], lengths[2] / lengths[0]
    slope, older = (results[0] - results[1]) / r_0, (results[1] - results[2]) / r_1
    bend = (slope - older) / (r_0 + r_1)
    phi_2 = _phi_2(h_eta)
    return phi_2 * (slope + bend * r_0) - (phi_2 / h_eta - 0.5) * bend


def sample_dpmpp_2m_sde(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: str = "midpoint",
) -> Tensor:
    """SDE-DPM-Solver++(2M), with the second-order term of `midpoint` or `heun`. Raises ValueError for others."""
    check_distinct(sigmas, "DPM-Solver++ 2M SDE", before_0=True)
    corrections = {"midpoint": _midpoint, "heun": _heun}
    if solver_type not in corrections:
        raise ValueError(f"solver_type is midpoint or heun, not {solver_type!r}")
    return _multistep_sde(
        model, x, sigmas, extra_args, callback, eta, s_noise, noise_sampler, corrections[solver_type]
    )


def sample_dpmpp_2m_sde_heun(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: str = "heun",
) -> Tensor:
    """`sample_dpmpp_2m_sde` with the other default."""
    return sample_dpmpp_2m_sde(
        model, x, sigmas, extra_args, callback, disable, eta, s_noise, noise_sampler, solver_type
    )


def sample_dpmpp_3m_sde(
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
    """SDE-DPM-Solver++(3M): k-diffusion's multistep over three results.

    Its order is 2: the second difference has half of the weight that order 3 would need. Pictures depend on it.
    """
    check_distinct(sigmas, "DPM-Solver++ 3M SDE", before_0=True)
    return _multistep_sde(model, x, sigmas, extra_args, callback, eta, s_noise, noise_sampler, _third_order)


def _on_the_latents_device(sampler: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(sampler)
    def sample(
        model: Model,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Args | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
        *,
        noise_sampler: NoiseSampler | None = None,
        **options: Any,
    ) -> Tensor:
        if len(sigmas) <= 1:
            return x
        noise = Run(model, extra_args, callback).brownian(x, sigmas, noise_sampler, cpu=False)
        return sampler(model, x, sigmas, extra_args, callback, disable, noise_sampler=noise, **options)

    return sample


sample_dpmpp_sde_gpu = _on_the_latents_device(sample_dpmpp_sde)
sample_dpmpp_2m_sde_gpu = _on_the_latents_device(sample_dpmpp_2m_sde)
sample_dpmpp_2m_sde_heun_gpu = _on_the_latents_device(sample_dpmpp_2m_sde_heun)
sample_dpmpp_3m_sde_gpu = _on_the_latents_device(sample_dpmpp_3m_sde)
