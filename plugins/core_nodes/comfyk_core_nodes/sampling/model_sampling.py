"""A model's noise levels: how its timesteps and sigmas map to each other, and its share of a run.

Each class is one half of a `model_sampling` object, with a class of `prediction` for the other half. `sigma` and
`timestep` take and give tensors of any shape; `sigmas` are ascending, `[T]`. `percent_to_sigma` maps the share of a run
that is done, 0 to 1, to the level there. The names are those of the field.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from comfyk_core_nodes.sampling import prediction

_T = TypeVar("_T", float, Tensor)

BEFORE_ALL = 999999999.9
"""`percent_to_sigma(0)` of the models without a highest level: above whatever a schedule begins with."""


class ModelSampling(Protocol):
    """A class of this module and one of `prediction` together: what samplers and guidance use."""

    sigmas: Tensor

    @property
    def sigma_min(self) -> Tensor: ...
    @property
    def sigma_max(self) -> Tensor: ...
    def sigma(self, timestep: Tensor) -> Tensor: ...
    def timestep(self, sigma: Tensor) -> Tensor: ...
    def percent_to_sigma(self, percent: float) -> float: ...
    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor: ...
    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor: ...
    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor | float, max_denoise: bool = False
    ) -> Tensor: ...
    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor: ...


def _settings(model_config: Any | None) -> dict[str, Any]:
    return {} if model_config is None else model_config.sampling_settings


class _Levels(nn.Module):
    """A table of levels. A module, so that it moves with the model; the table is no weight of it."""

    sigmas: Tensor
    log_sigmas: Tensor

    def set_sigmas(self, sigmas: Tensor) -> None:
        """Take `sigmas`, ascending `[T]`, for the table. Logarithms are as exact as the sigmas that are given."""
        self.register_buffer("sigmas", sigmas.float(), persistent=False)
        self.register_buffer("log_sigmas", sigmas.log().float(), persistent=False)

    @property
    def sigma_min(self) -> Tensor:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        return self.sigmas[-1]


def betas_for(kind: str, timesteps: int, start: float, end: float) -> Tensor:
    """The betas of a diffusion of `timesteps` steps, `[timesteps]` in float64.

    `linear` is the square of a linear ramp (Rombach et al. 2021, arXiv:2112.10752), `cosine` that of Nichol and
    Dhariwal 2021 (arXiv:2102.09672; also called `squaredcos_cap_v2`), `sqrt_linear` and `sqrt` a ramp and its root.
    Raises ValueError for others.
    """
    if kind == "linear":
        return torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float64) ** 2
    if kind in ("cosine", "squaredcos_cap_v2"):
        offset = 8e-3
        t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        alphas = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
        return (1 - alphas[1:] / alphas[:-1]).clamp(0, 0.999)
    ramp = torch.linspace(start, end, timesteps, dtype=torch.float64)
    if kind == "sqrt_linear":
        return ramp
    if kind == "sqrt":
        return ramp**0.5
    raise ValueError(
        f"the beta schedule {kind!r} is not known; there are linear, cosine, sqrt_linear and sqrt"
    )


def zero_terminal_snr(sigmas: Tensor) -> Tensor:
    """`sigmas` with the last level moved to (almost) pure noise, the first one kept.

    Algorithm 1 of Lin et al. 2023 (arXiv:2305.08891). The last alpha is kept a little above 0, so that sigma is
    finite: 4518.
    """
    root_alphas = (1 / (sigmas**2 + 1)).sqrt()
    first, last = root_alphas[0].clone(), root_alphas[-1].clone()
    alphas = ((root_alphas - last) * (first / (first - last))) ** 2
    alphas[-1] = 4.8973451890853435e-08
    return ((1 - alphas) / alphas).sqrt()


class ModelSamplingDiscrete(_Levels):
    """Levels of a model trained on whole timesteps: Stable Diffusion and its kin.

    `model_config.sampling_settings` may give `beta_schedule`, `linear_start`, `linear_end`, `timesteps` and `zsnr`.
    """

    def __init__(self, model_config: Any | None = None, zsnr: bool | None = None) -> None:
        super().__init__()
        settings = _settings(model_config)
        self.linear_start = settings.get("linear_start", 0.00085)
        self.linear_end = settings.get("linear_end", 0.012)
        self.num_timesteps = int(settings.get("timesteps", 1000))
        self.zsnr = settings.get("zsnr", False) if zsnr is None else zsnr
        self.sigma_data = 1.0
        kind = settings.get("beta_schedule", "linear")
        betas = betas_for(kind, self.num_timesteps, self.linear_start, self.linear_end)
        alphas = torch.cumprod(1 - betas, dim=0)
        sigmas = ((1 - alphas) / alphas) ** 0.5
        self.set_sigmas(zero_terminal_snr(sigmas) if self.zsnr else sigmas)

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep whose level is nearest in log space."""
        log_sigma = sigma.log().to(self.log_sigmas.device)
        distances = (log_sigma - self.log_sigmas[:, None]).abs()
        return distances.argmin(dim=0).view(sigma.shape).to(sigma.device)

    def sigma(self, timestep: Tensor) -> Tensor:
        """The level at a timestep; between two of them linear in log space."""
        t = timestep.float().to(self.log_sigmas.device).clamp(min=0, max=len(self.sigmas) - 1)
        weight = t.frac()
        low, high = self.log_sigmas[t.floor().long()], self.log_sigmas[t.ceil().long()]
        return ((1 - weight) * low + weight * high).exp().to(timestep.device)

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0.0:
            return BEFORE_ALL
        if percent >= 1.0:
            return 0.0
        return self.sigma(torch.tensor((1.0 - percent) * 999.0)).item()


class ModelSamplingDiscreteDistilled(ModelSamplingDiscrete):
    """Levels of a model distilled onto 50 of the 1000 timesteps, as LCM is."""

    original_timesteps = 50

    def __init__(self, model_config: Any | None = None, zsnr: bool | None = None) -> None:
        super().__init__(model_config, zsnr)
        self.skip_steps = self.num_timesteps // self.original_timesteps
        kept = torch.arange(1, self.original_timesteps + 1) * self.skip_steps - 1
        self.set_sigmas(self.sigmas[kept + self.num_timesteps % self.original_timesteps])

    def timestep(self, sigma: Tensor) -> Tensor:
        return super().timestep(sigma) * self.skip_steps + (self.skip_steps - 1)

    def sigma(self, timestep: Tensor) -> Tensor:
        return super().sigma((timestep.float() - (self.skip_steps - 1)) / self.skip_steps)


class ModelSamplingDiscreteEDM(ModelSamplingDiscrete):
    """A discrete model that is given `log(sigma) / 4` for its timestep (Karras et al. 2022, c_noise)."""

    def timestep(self, sigma: Tensor) -> Tensor:
        return 0.25 * sigma.log()

    def sigma(self, timestep: Tensor) -> Tensor:
        return (timestep / 0.25).exp()


class ModelSamplingContinuousEDM(_Levels):
    """Levels anywhere between two bounds above 0, with `log(sigma) / 4` for the timestep."""

    def __init__(self, model_config: Any | None = None) -> None:
        super().__init__()
        settings = _settings(model_config)
        self.set_parameters(
            settings.get("sigma_min", 0.002),
            settings.get("sigma_max", 120.0),
            settings.get("sigma_data", 1.0),
        )

    def set_parameters(self, sigma_min: float, sigma_max: float, sigma_data: float) -> None:
        if min(sigma_min, sigma_max) <= 0:
            raise ValueError(
                f"noise levels are between bounds above 0, not sigma_min {sigma_min} and sigma_max {sigma_max}; "
                "set them higher"
            )
        self.sigma_data = sigma_data
        self.set_sigmas(torch.linspace(math.log(sigma_min), math.log(sigma_max), 1000).exp())

    def timestep(self, sigma: Tensor) -> Tensor:
        return 0.25 * sigma.log()

    def sigma(self, timestep: Tensor) -> Tensor:
        return (timestep / 0.25).exp()

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0.0:
            return BEFORE_ALL
        if percent >= 1.0:
            return 0.0
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return math.exp(low + (high - low) * (1.0 - percent))


class ModelSamplingContinuousV(ModelSamplingContinuousEDM):
    """As above, with the angle of noise to signal for the timestep, 0 to 1."""

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma.atan() / math.pi * 2

    def sigma(self, timestep: Tensor) -> Tensor:
        return (timestep * math.pi / 2).tan()


class ModelSamplingCosmosRFlow(ModelSamplingContinuousEDM):
    """As above, with `sigma / (1 + sigma)` for the timestep."""

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma / (sigma + 1)

    def sigma(self, timestep: Tensor) -> Tensor:
        last = self.sigma_max.to(timestep)
        return torch.where(timestep >= last / (last + 1), last, timestep / (1 - timestep))


def snr_shift(shift: float, t: _T) -> _T:
    """The flow time with the noise-to-signal ratio times `shift` (Esser et al. 2024, arXiv:2403.03206, eq. 23)."""
    return t if shift == 1.0 else shift * t / (1 + (shift - 1) * t)


class ModelSamplingDiscreteFlow(_Levels):
    """Flow levels 0 to 1, shifted towards noise: SD3 (`multiplier` 1000) and AuraFlow (1)."""

    def __init__(self, model_config: Any | None = None) -> None:
        super().__init__()
        settings = _settings(model_config)
        self.set_noise_scale(settings.get("noise_scale", 1.0))
        self.set_parameters(settings.get("shift", 1.0), multiplier=settings.get("multiplier", 1000))

    def set_parameters(self, shift: float = 1.0, timesteps: int = 1000, multiplier: float = 1000) -> None:
        self.shift = shift
        self.multiplier = multiplier
        self.set_sigmas(self.sigma(torch.arange(1, timesteps + 1) / timesteps * multiplier))

    def set_noise_scale(self, noise_scale: float) -> None:
        self.noise_scale = float(noise_scale)

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma * self.multiplier

    def sigma(self, timestep: Tensor) -> Tensor:
        return snr_shift(self.shift, timestep / self.multiplier)

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0.0:
            return 1.0
        if percent >= 1.0:
            return 0.0
        return snr_shift(self.shift, 1.0 - percent)


_HIGHEST_MU = 700.0
"""`e**mu` of more is no floating-point number."""


def flux_shift(mu: float, t: _T) -> _T:
    """The flow time with the noise-to-signal ratio times `e**mu`; 0 stays 0."""
    return math.exp(mu) / (math.exp(mu) + (1 / t - 1))


def flux_shift_for(width: int, height: int, max_shift: float = 1.15, base_shift: float = 0.5) -> float:
    """`mu` for a picture of that many pixels: linear in its tokens, `base_shift` at 256 and `max_shift` at 4096."""
    slope = (max_shift - base_shift) / (4096 - 256)
    return width * height / (16 * 16) * slope + base_shift - slope * 256


class ModelSamplingFlux(_Levels):
    """Flow levels 0 to 1 shifted by `mu`, which are timesteps as well."""

    def __init__(self, model_config: Any | None = None) -> None:
        super().__init__()
        self.set_parameters(_settings(model_config).get("shift", 1.15))

    def set_parameters(self, shift: float = 1.15, timesteps: int = 10000) -> None:
        if shift > _HIGHEST_MU:
            raise ValueError(
                f"a shift of {shift:.4g} for this size is beyond what numbers hold; lower max_shift or the size"
            )
        self.shift = shift
        self.set_sigmas(self.sigma(torch.arange(1, timesteps + 1) / timesteps))

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma

    def sigma(self, timestep: Tensor) -> Tensor:
        return flux_shift(self.shift, timestep)

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0.0:
            return 1.0
        if percent >= 1.0:
            return 0.0
        return flux_shift(self.shift, 1.0 - percent)


class StableCascadeSampling(_Levels):
    """The cosine schedule over time 0 to 1, shifted in log SNR (Pernias et al. 2023, arXiv:2306.00637).

    In single precision, constants and all: near 0 and with a large shift the rounding is what a picture is made with.
    """

    def __init__(self, model_config: Any | None = None) -> None:
        super().__init__()
        self.sigma_data = 1.0
        self.num_timesteps = 10000
        self.offset = torch.tensor(8e-3)
        self.first = (self.offset / (1 + self.offset) * math.pi * 0.5).cos() ** 2
        self.set_parameters(_settings(model_config).get("shift", 1.0))

    def set_parameters(self, shift: float = 1.0) -> None:
        self.shift = shift
        self.set_sigmas(self.sigma(torch.arange(1, self.num_timesteps + 1) / self.num_timesteps))

    def sigma(self, timestep: Tensor) -> Tensor:
        alpha = ((timestep + self.offset) / (1 + self.offset) * math.pi * 0.5).cos() ** 2 / self.first
        if self.shift != 1.0:
            # A shift of 0 is no noise at any level, as far as the clamp lets it be.
            alpha = ((alpha / (1 - alpha)).log() + 2 * torch.log(1.0 / torch.tensor(self.shift))).sigmoid()
        alpha = alpha.clamp(0.0001, 0.9999)
        return ((1 - alpha) / alpha) ** 0.5

    def timestep(self, sigma: Tensor) -> Tensor:
        alpha = (1 / (sigma * sigma + 1)).clamp(0, 1.0)
        offset, first = self.offset.to(sigma.device), self.first.to(sigma.device)
        return (alpha * first).sqrt().acos() / (math.pi * 0.5) * (1 + offset) - offset

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0.0:
            return BEFORE_ALL
        if percent >= 1.0:
            return 0.0
        return float(self.sigma(torch.tensor(1.0 - percent)))


def model_sampling(
    levels: type[nn.Module], kind: type, model_config: Any | None = None, **settings: Any
) -> Any:
    """An object of both halves, for example `model_sampling(ModelSamplingDiscrete, EPS, zsnr=True)`."""
    return type(f"{levels.__name__}_{kind.__name__}", (levels, kind), {})(model_config, **settings)


def noise_scale_of(sampling: Any) -> float:
    """The standard deviation of the noise that a model was trained with: 1 but for a few flow models."""
    return getattr(sampling, "noise_scale", 1.0)


def is_flow(sampling: Any) -> bool:
    """Whether latents of this model are noised as `(1 - sigma) * x0 + sigma * noise`."""
    return isinstance(sampling, prediction.CONST)
