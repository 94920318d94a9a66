"""Noise: the same as the reference's for a seed, batch items, Brownian paths."""

from __future__ import annotations

import warnings

import pytest
import torch
from comfyk_core_nodes.sampling.brownian import BrownianTreeNoiseSampler, default_noise_sampler
from comfyk_core_nodes.sampling.noise import EmptyNoise, RandomNoise, prepare_noise


def test_noise_is_the_references() -> None:
    noise = prepare_noise(torch.zeros(2, 4, 8, 8), 12345)
    facts = [-1.479808, 0.487306, 0.318237, 0.500623, -0.218167, 0.880128]
    assert noise.flatten()[[0, 1, 100, 255, -256, -1]].tolist() == pytest.approx(facts, abs=1e-6)


def test_batch_index_gives_the_noise_of_the_larger_batch() -> None:
    latent = torch.zeros(1, 4, 8, 8)
    larger = torch.cat([prepare_noise(latent, 5, [i]) for i in range(4)])
    chosen = prepare_noise(torch.zeros(3, 4, 8, 8), 5, [3, 1, 1])
    assert chosen.equal(larger[[3, 1, 1]])
    assert larger[:1].equal(prepare_noise(latent, 5))


def test_noise_objects() -> None:
    latent = {"samples": torch.zeros(1, 4, 8, 8), "batch_index": [2]}
    assert RandomNoise(5).generate_noise(latent).equal(prepare_noise(latent["samples"], 5, [2]))
    assert not EmptyNoise().generate_noise(latent).any()


def test_the_samplers_noise_is_not_that_of_the_start() -> None:
    x = torch.zeros(1, 4, 8, 8)
    sigma = torch.tensor(1.0)
    assert default_noise_sampler(x, 5)(sigma, sigma).equal(prepare_noise(x, 6))


def test_brownian_increments_add_up() -> None:
    x = torch.zeros(1, 4, 8, 8)
    noise = BrownianTreeNoiseSampler(x, 0.03, 14.6, seed=3, cpu=True)
    a, b, c = torch.tensor(10.0), torch.tensor(4.0), torch.tensor(1.0)
    whole = noise(a, c) * 3.0
    parts = noise(a, b) * 6.0**0.5 + noise(b, c) * 3.0**0.5
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(noise(c, a), -noise(a, c))
    assert whole.std().item() / 3.0 == pytest.approx(1.0, abs=0.15)


def test_brownian_seeds_for_each_item() -> None:
    x = torch.zeros(2, 4, 8, 8)
    sigmas = torch.tensor(10.0), torch.tensor(1.0)
    both = BrownianTreeNoiseSampler(x, 0.03, 14.6, seed=[3, 4])(*sigmas)
    single = BrownianTreeNoiseSampler(x[0], 0.03, 14.6, seed=4)(*sigmas)
    assert both[1].equal(single)
    with pytest.raises(ValueError, match="3 seeds were given for a batch of 2"):
        BrownianTreeNoiseSampler(x, 0.03, 14.6, seed=[1, 2, 3])


def test_the_ends_of_a_brownian_path_are_no_reason_for_a_warning() -> None:
    low, high = torch.tensor(0.02916715), torch.tensor(14.614643096923828)
    noise = BrownianTreeNoiseSampler(torch.zeros(1, 4, 2, 2), low, high, seed=1, cpu=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert noise(high, low).isfinite().all()
