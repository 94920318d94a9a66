"""The samplers: one flat function each, in a module for each family, named and cited as in their papers.

All are called alike: `sample_x(model, x, sigmas, extra_args=None, callback=None, disable=None, ...)`, where

- `model(x, sigma, **extra_args)` gives the denoised latent for `x`, `[B, C, ...]`, at `sigma`, `[B]`;
- `x` is noisy at `sigmas[0]`; `sigmas`, `[steps + 1]`, descend, mostly to 0; what is returned is `x` at the last;
- `extra_args` go to the model; of them `seed` also seeds the sampler's own noise;
- `callback` gets a dict with `i`, `x`, `sigma`, `sigma_hat` and `denoised` in each step;
- `disable` is there for callers that switch a progress bar off; nothing is printed here.

Noise is drawn in a fixed order, so that a seed gives the same picture everywhere.
"""
