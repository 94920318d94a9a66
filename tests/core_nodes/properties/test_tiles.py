"""The VAE in tiles against the VAE in one piece, at any size."""

from __future__ import annotations

import torch
from comfyk_core_nodes.families.checkpoint import Checkpoint
from comfyk_core_nodes.vae.vae import VAE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from .conftest import drawn

EXAMPLES = settings(
    max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TOLERANCE = 0.2
"""Norms and attention see a tile in place of the whole: in share of the whole's deviation, on average."""


def vae_of(checkpoint: Checkpoint) -> VAE:
    assert checkpoint.vae is not None
    return checkpoint.vae


def smooth(height: int, width: int, channels: int, seed: int) -> Tensor:
    """Random, but alike in all tiles, as norms want it: `[1, channels, height, width]` with deviation 1."""
    return drawn(1, channels, height, width, seed=seed)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean() / b.std())


@given(height=st.integers(1, 12), width=st.integers(1, 12))
@EXAMPLES
def test_a_latent_of_one_tile_is_decoded_as_a_whole(checkpoint: Checkpoint, height: int, width: int) -> None:
    vae, latent = vae_of(checkpoint), smooth(height, width, 4, 1)
    tiled = vae.decode_tiled(latent, tile_x=24, tile_y=24, overlap=6)
    torch.testing.assert_close(tiled, vae.decode(latent), rtol=0, atol=1e-5)


@given(height=st.integers(8, 71), width=st.integers(8, 71))
@EXAMPLES
def test_a_picture_of_one_tile_is_encoded_as_a_whole(checkpoint: Checkpoint, height: int, width: int) -> None:
    vae, picture = vae_of(checkpoint), smooth(height, width, 3, 2).sigmoid().movedim(1, -1)
    tiled = vae.encode_tiled(picture, tile_x=144, tile_y=144, overlap=32)
    whole = vae.encode(picture)
    assert whole.shape == (1, 4, height // 8, width // 8)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-4)


@given(height=st.integers(13, 20), width=st.integers(13, 20), overlap=st.integers(2, 3))
@EXAMPLES
def test_decoding_in_tiles_is_near_the_whole(
    checkpoint: Checkpoint, height: int, width: int, overlap: int
) -> None:
    vae, latent = vae_of(checkpoint), smooth(height, width, 4, 3)
    tiled, whole = vae.decode_tiled(latent, tile_x=16, tile_y=16, overlap=overlap), vae.decode(latent)
    assert tiled.shape == whole.shape == (1, 8 * height, 8 * width, 3)
    assert distance(tiled, whole) < TOLERANCE


@given(height=st.integers(100, 150), width=st.integers(100, 150), overlap=st.sampled_from([16, 24]))
@EXAMPLES
def test_encoding_in_tiles_is_near_the_whole(
    checkpoint: Checkpoint, height: int, width: int, overlap: int
) -> None:
    vae, picture = vae_of(checkpoint), smooth(height, width, 3, 4).sigmoid().movedim(1, -1)
    tiled = vae.encode_tiled(picture, tile_x=128, tile_y=128, overlap=overlap)
    whole = vae.encode(picture)
    assert tiled.shape == whole.shape == (1, 4, height // 8, width // 8)
    assert distance(tiled, whole) < TOLERANCE


def test_the_more_tiles_overlap_the_nearer_they_come(checkpoint: Checkpoint) -> None:
    vae, latent = vae_of(checkpoint), smooth(20, 20, 4, 5)
    whole = vae.decode(latent)
    distances = [
        distance(vae.decode_tiled(latent, tile_x=16, tile_y=16, overlap=overlap), whole) for overlap in (0, 3)
    ]
    assert distances[1] < distances[0]
