"""What all samplers share: calling the model, reporting steps, ancestral noise, log-SNR time.

`lambda` is half the log signal-to-noise ratio, `log(alpha / sigma)`: for most models alpha is 1 and it is
`-log(sigma)`, for flow models alpha is `1 - sigma`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from comfyk_core_nodes.sampling.brownian import BrownianTreeNoiseSampler, NoiseSampler, default_noise_sampler
from comfyk_core_nodes.sampling.model_sampling import ModelSampling, is_flow, noise_scale_of

Model = Callable[..., Tensor]
Callback = Callable[[dict[str, Any]], None]
Args = Mapping[str, Any]


class Run:
    """One run of a sampler: the model at one level for the whole batch, and a report of each step."""

    def __init__(self, model: Model, extra_args: Args | None, callback: Callback | None) -> None:
        self.model = model
        self.extra_args: dict[str, Any] = dict(extra_args or {})
        self._callback = callback

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The denoised latent for `x` at `sigma`, `[]`."""
        return self.model(x, sigma * x.new_ones(x.shape[0]), **self.extra_args)

    def step(self, i: int, x: Tensor, sigma: Tensor, sigma_hat: Tensor | None = None) -> Tensor:
        """As `denoise`, at `sigma_hat` if it is given, and report step `i`."""
        level = sigma if sigma_hat is None else sigma_hat
        denoised = self.denoise(x, level)
        self.report(i, x, denoised, sigma=sigma, sigma_hat=level)
        return denoised

    def report(self, i: int, x: Tensor, denoised: Tensor, **more: Any) -> None:
        if self._callback is not None:
            self._callback({"i": i, "x": x, "denoised": denoised, **more})

    @property
    def sampling(self) -> ModelSampling:
        """The model's noise levels."""
        return self.model.inner_model.model_patcher.get_model_object("model_sampling")  # pyright: ignore

    @property
    def flow(self) -> bool:
        return is_flow(self.sampling)

    def noise_sampler(self, x: Tensor, given: NoiseSampler | None) -> NoiseSampler:
        """`given`, or independent noise from the run's seed."""
        return given or default_noise_sampler(x, self.extra_args.get("seed"))

    def brownian(
        self, x: Tensor, sigmas: Tensor, given: NoiseSampler | None, cpu: bool = True
    ) -> NoiseSampler:
        """`given`, or a Brownian path over all positive levels from the run's seed."""
        if given is not None:
            return given
        seed = self.extra_args.get("seed")
        return BrownianTreeNoiseSampler(x, sigmas[sigmas > 0].min(), sigmas.max(), seed=seed, cpu=cpu)

    def noise_strength(self, s_noise: float) -> float:
        """`s_noise` times the standard deviation of the noise that the model was trained with."""
        return s_noise * noise_scale_of(self.sampling)


class GuidedRun(Run):
    """A run that also keeps what the unconditional half of guidance gave, for CFG++ (arXiv:2406.08070).

    The unconditional half is then computed at guidance 1 as well.
    """

    def __init__(self, model: Model, extra_args: Args | None, callback: Callback | None) -> None:
        super().__init__(model, extra_args, callback)
        self._uncond: Tensor | None = None
        options = dict(self.extra_args.get("model_options", {}))
        options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", []), self._keep]
        options["disable_cfg1_optimization"] = True
        self.extra_args["model_options"] = options

    @property
    def uncond(self) -> Tensor:
        """The latest one. Raises ValueError when the guider computes none."""
        if self._uncond is None:
            raise ValueError(
                "a CFG++ sampler needs the unconditional half of guidance, which this guider does not compute: "
                "raise its cfg above 1, or use a sampler without CFG++"
            )
        return self._uncond

    def _keep(self, args: dict[str, Any]) -> Tensor:
        self._uncond = args["uncond_denoised"]
        return args["denoised"]


def levels(sigmas: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """`(i, sigma, next sigma)` for each step."""
    for i in range(len(sigmas) - 1):
        yield i, sigmas[i], sigmas[i + 1]


def check_distinct(sigmas: Tensor, sampler: str, before_0: bool = False) -> None:
    """Raise ValueError when a level above 0 follows itself, where a sampler would divide by the distance.

    With `before_0` the sampler minds it also right before a final 0.
    """
    same = (sigmas[1:] == sigmas[:-1]) & (sigmas[1:] > 0)
    if not before_0 and len(sigmas) > 2 and sigmas[-1] == 0:
        same[-2] = False
    if same.any():
        level = float(sigmas[1:][same][0])
        raise ValueError(
            f"{sampler} cannot step between two noise levels that are the same, and {level:.4g} is there twice in the "
            f"{len(sigmas)} levels given: set fewer steps or another scheduler, or take the sampler euler"
        )


def to_d(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """The slope `dx / dsigma` of the probability flow ODE (Karras et al. 2022, eq. 3)."""
    return (x - denoised) / sigma


def ancestral_step(sigma: Tensor, sigma_next: Tensor, eta: float = 1.0) -> tuple[Tensor, Tensor]:
    """`(sigma_down, sigma_up)`: go down to the first without noise, then add noise of the second.

    `eta` is the share of the noise that the reverse process would add (Song et al. 2020, arXiv:2010.02502, eq. 16).
    Where the level rises, or falls from an infinite one, the root is not a number, and all of the noise is new.
    """
    if not eta:
        return sigma_next, torch.zeros_like(sigma_next)
    share = (sigma**2 - sigma_next**2) / sigma**2
    up = torch.fmin(sigma_next, eta * sigma_next * share.sqrt())
    return (sigma_next**2 - up**2).sqrt(), up


def flow_ancestral_step(sigma: Tensor, sigma_next: Tensor, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """`(sigma_down, scale, sigma_up)` for a flow model: go down, multiply by `scale`, then add noise of `sigma_up`.

    The scale brings the signal back to `1 - sigma_next`.
    """
    down = sigma_next * (1 + (sigma_next / sigma - 1) * eta)
    scale = (1 - sigma_next) / (1 - down)
    return down, scale, (sigma_next**2 - (down * scale) ** 2).sqrt()


def half_log_snr(sigma: Tensor, flow: bool) -> Tensor:
    """lambda at `sigma`."""
    return -sigma.logit() if flow else -sigma.log()


def sigma_at(half_log_snr: Tensor, flow: bool) -> Tensor:
    """sigma at a lambda."""
    return (-half_log_snr).sigmoid() if flow else (-half_log_snr).exp()


def off_pure_noise(sigmas: Tensor, sampling: ModelSampling) -> Tensor:
    """`sigmas` with a first flow level of 1 lowered a little, where lambda would be infinite."""
    if len(sigmas) > 1 and is_flow(sampling) and sigmas[0] >= 1:
        sigmas = sigmas.clone()
        sigmas[0] = sampling.percent_to_sigma(1e-4)
    return sigmas


def phi(h: Tensor, count: int) -> list[Tensor]:
    """`[phi_1(h), ... phi_count(h)]` of exponential integrators: `phi_1 = (e**h - 1) / h`,
    `phi_k+1 = (phi_k - 1 / k!) / h`, and `1 / k!` at 0 (Hochbruck and Ostermann 2010).
    """
    phis: list[Tensor] = []
    above, at_zero = torch.expm1(h), 1.0
    for k in range(1, count + 1):
        at_zero /= k
        phis.append(torch.where(h == 0, at_zero, above / h))
        above = phis[-1] - at_zero
    return phis
