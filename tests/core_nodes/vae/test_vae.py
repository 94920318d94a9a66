"""The VAE around its network: tiles, cropping, out of memory, TAESD."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from comfyk_core_nodes.families.sd.latent_formats import SDXL, SDXL_Playground_2_5
from comfyk_core_nodes.images.overlapping_tiles import count_tiles, tile_starts, tiled_scale
from comfyk_core_nodes.vae.taesd import TAESD, load_decoder
from comfyk_core_nodes.vae.vae import VAE
from torch import Tensor

from ..tiny_models import make_vae, randomised

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(2)
    return VAE(make_vae().state_dict())


def test_tiles_of_a_function_of_single_pixels_leave_no_seam() -> None:
    x = torch.randn(2, 4, 37, 50)
    out = tiled_scale(x, lambda tile: tile[:, :3] * 2 + 1, 16, 12, 4, upscale_amount=1, out_channels=3)
    assert torch.allclose(out, x[:, :3] * 2 + 1, atol=1e-5)
    up = tiled_scale(
        x, lambda tile: tile[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3), 16, 16, 4, 8
    )
    assert torch.allclose(up, x[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3), atol=1e-5)


def test_overlapping_tiles_are_mixed_by_ramps() -> None:
    calls = iter((0.0, 1.0))
    out = tiled_scale(torch.zeros(1, 1, 1, 12), lambda tile: tile + next(calls), 8, 8, 4, 1, 1)
    # 0 falls as 4/4, 3/4, 2/4, 1/4 while 1 rises as 1/4 ... 4/4.
    assert out.flatten()[:4].tolist() == [0] * 4
    assert out.flatten()[4:8].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert out.flatten()[8:].tolist() == [1] * 4


def test_where_tiles_start() -> None:
    assert tile_starts(64, 64, 16) == [0]
    assert tile_starts(65, 64, 16) == [0, 48]
    assert tile_starts(5, 2, 2) == [0, 1, 2, 3]
    assert count_tiles(65, 130, 64, 64, 16) == 2 * 3


def test_tiled_is_near_whole(vae: VAE) -> None:
    latent = torch.randn(1, 4, 24, 20)
    whole = vae.decode(latent)
    tiled = vae.decode_tiled(latent, tile_x=16, tile_y=16, overlap=6)
    assert tiled.shape == whole.shape
    # Group norms see other pixels in a tile: the difference is small, not zero.
    assert float((tiled - whole).abs().mean()) < 0.05
    image = torch.rand(1, 160, 192, 3)
    tiled = vae.encode_tiled(image, tile_x=128, tile_y=128, overlap=32)
    assert tiled.shape == (1, 4, 20, 24)
    assert float((tiled - vae.encode(image)).abs().mean()) < 0.5


def test_pictures_are_cut_to_whole_latent_pixels(vae: VAE) -> None:
    image = torch.rand(1, 37, 50, 4)
    assert torch.equal(vae.vae_encode_crop_pixels(image), image[:, 2:34, 1:49, :3])
    assert vae.encode(image).shape == (1, 4, 4, 6)


def test_batches(vae: VAE) -> None:
    latents = torch.randn(3, 4, 4, 4)
    one_by_one = torch.cat([vae.decode(latents[i : i + 1]) for i in range(3)])
    assert torch.allclose(vae.decode(latents), one_by_one, atol=1e-5)


def test_out_of_memory_falls_back_to_tiles(
    vae: VAE, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network: Any = vae.first_stage_model
    decode, encode = network.decode, network.encode

    def limited(function: Any, largest: int) -> Any:
        def call(x: Tensor) -> Tensor:
            if x.shape[-1] * x.shape[-2] > largest:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return function(x)

        return call

    monkeypatch.setattr(network, "decode", limited(decode, 64 * 64))
    monkeypatch.setattr(network, "encode", limited(encode, 512 * 512))
    with caplog.at_level(logging.WARNING):
        assert vae.decode(torch.randn(1, 4, 65, 64)).shape == (1, 520, 512, 3)
        assert vae.encode(torch.rand(1, 520, 512, 3)).shape == (1, 4, 65, 64)
    assert [record.message for record in caplog.records if "tiles" in record.message] == [
        "Out of memory while decoding the picture; it is decoded again in tiles",
        "Out of memory while encoding the picture; it is encoded again in tiles",
    ]
    monkeypatch.setattr(network, "decode", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        vae.decode(torch.randn(1, 4, 4, 4))


def test_taesd() -> None:
    network = randomised(TAESD())
    state = network.state_dict()
    vae = VAE(state)
    image = vae.decode(torch.randn(1, 4, 4, 6))
    assert image.shape == (1, 32, 48, 3)
    assert vae.encode(image).shape == (1, 4, 4, 6)
    decoder = load_decoder({k[len("taesd_decoder.") :]: v for k, v in state.items() if "decoder" in k})
    latent = torch.randn(1, 4, 4, 4)
    assert torch.allclose(decoder(latent) * 2 - 1, network.decode(latent), atol=1e-5)
    with pytest.raises(ValueError, match="not the weights of a TAESD decoder"):
        load_decoder({"1.weight": torch.zeros(64, 4, 3, 3)})


def test_what_is_no_autoencoder() -> None:
    with pytest.raises(ValueError, match="no autoencoder"):
        VAE({"x": torch.zeros(1)})


def test_latent_formats() -> None:
    latent = torch.randn(1, 4, 3, 3)
    for kind in (SDXL(), SDXL_Playground_2_5()):
        assert torch.allclose(kind.process_out(kind.process_in(latent)), latent, atol=1e-5)
        rgb = kind.to_rgb(latent[0])
        assert rgb is not None and rgb.shape == (3, 3, 3)
        assert float(rgb.min()) >= 0 and float(rgb.max()) <= 1
