"""DDPM's own ancestral sampling."""

from __future__ import annotations

from torch import Tensor

from comfyk_core_nodes.sampling.brownian import NoiseSampler
from comfyk_core_nodes.sampling.samplers.steps import Args, Callback, Model, Run, levels, to_d


def sample_ddpm(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Ho et al. 2020 (arXiv:2006.11239), algorithm 2, with the posterior variance.

    In the paper's terms `alpha_bar = 1 / (1 + sigma**2)`, and its latents are `x * sqrt(alpha_bar)`.
    """
    run = Run(model, extra_args, callback)
    noise = run.noise_sampler(x, noise_sampler)
    for i, sigma, sigma_next in levels(sigmas):
        predicted = to_d(x, sigma, run.step(i, x, sigma))
        alpha_bar, alpha_bar_next = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2)
        alpha = alpha_bar / alpha_bar_next
        mean = x * alpha_bar.sqrt() - (1 - alpha) / (1 - alpha_bar).sqrt() * predicted
        x = mean / alpha.sqrt()
        if sigma_next > 0:
            variance = (1 - alpha) * (1 - alpha_bar_next) / (1 - alpha_bar)
            x = (x + variance.sqrt() * noise(sigma, sigma_next)) / alpha_bar_next.sqrt()
    return x
