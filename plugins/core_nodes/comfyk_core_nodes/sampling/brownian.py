"""Where the noise of a stochastic sampler comes from: fresh Gaussian noise, or increments of one Brownian path.

A noise sampler is a function of two sigmas that gives unit noise in the latent's shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torchsde
from torch import Tensor

_DIGITS = 6
"""torchsde rounds times so, and warns when one is asked for that lies beyond a rounded end."""

NoiseSampler = Callable[[Tensor, Tensor], Tensor]


def default_noise_sampler(x: Tensor, seed: int | None = None) -> NoiseSampler:
    """Independent noise at each call, on the device of `x`.

    On the CPU the seed is one higher than was asked for: `prepare_noise` has used `seed` itself there, and the same
    noise must not come twice.
    """
    generator = None
    if seed is not None:
        generator = torch.Generator(device=x.device)
        generator.manual_seed(seed + 1 if x.device.type == "cpu" else seed)

    def sample(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return torch.randn(x.shape, dtype=x.dtype, layout=x.layout, device=x.device, generator=generator)

    return sample


class BrownianTreeNoiseSampler:
    """Noise between two levels as the increment of one Brownian path, so that the step count hardly changes a picture.

    The path is over `transform(sigma)`, from `sigma_min` to `sigma_max`. With one seed for each item of the batch
    the items do not depend on each other. `cpu` draws on the CPU whatever the device of `x`.
    """

    def __init__(
        self,
        x: Tensor,
        sigma_min: Tensor | float,
        sigma_max: Tensor | float,
        seed: int | Sequence[int] | None = None,
        transform: Callable[[Tensor], Tensor] = lambda sigma: sigma,
        cpu: bool = False,
    ) -> None:
        self._transform = transform
        self._cpu = cpu
        self._batched = isinstance(seed, Sequence)
        if isinstance(seed, Sequence):
            seeds = list(seed)
            if len(seeds) != x.shape[0]:
                raise ValueError(
                    f"{len(seeds)} seeds were given for a batch of {x.shape[0]}; each item needs one"
                )
        else:
            seeds = [int(torch.randint(0, 2**63 - 1, ())) if seed is None else seed]
        start, end = self._time(sigma_min), self._time(sigma_max)
        self._sign = 1 if start < end else -1
        origin = torch.zeros_like(x[0] if self._batched else x, device="cpu" if cpu else None)
        low, high = (start, end) if self._sign > 0 else (end, start)
        self._trees = [torchsde.BrownianTree(low, origin, high, entropy=entropy) for entropy in seeds]
        self._low, self._high = round(float(low), _DIGITS), round(float(high), _DIGITS)

    def _time(self, sigma: Tensor | float) -> Tensor:
        time = self._transform(torch.as_tensor(sigma)).detach()
        return time.cpu() if self._cpu else time

    def _within(self, time: Tensor) -> float:
        return min(max(float(time), self._low), self._high)

    def __call__(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        t, t_next = self._time(sigma), self._time(sigma_next)
        sign = self._sign if t < t_next else -self._sign
        low, high = sorted((self._within(t), self._within(t_next)))
        increments = [cast("Tensor", tree(low, high)) for tree in self._trees]
        increment = torch.stack(increments) if self._batched else increments[0]
        sigma = torch.as_tensor(sigma)
        if low == high:  # nowhere to go: 0 / 0 is no noise
            return torch.zeros_like(increment, device=sigma.device, dtype=sigma.dtype)
        return increment.to(sigma.device, sigma.dtype) * sign / (t_next - t).abs().sqrt().to(sigma.device)
