"""Previews: from latents to small pictures, and with the progress."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfyk.context
import pytest
import torch
from comfyk.folders import Folders
from comfyk_core_nodes.sampling.preview import (
    decoded_previewer,
    find_previewer,
    latent_previewer,
    preview_image,
    rgb_previewer,
    step_callback,
)
from comfyk_core_nodes.vae.taesd import decoder
from PIL import Image
from safetensors.torch import save_file

FACTORS = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


def test_latents_as_colours() -> None:
    latent = torch.zeros(2, 4, 6, 8)
    latent[0, 0] = 1.0
    picture = rgb_previewer(FACTORS, bias=[0.0, 0.5, 0.0])(latent)
    assert picture.shape == (6, 8, 3)
    assert picture[0, 0].tolist() == [1.0, 0.5, 0.0]
    assert rgb_previewer(FACTORS)(torch.zeros(1, 4, 5, 6, 8)).shape == (6, 8, 3)
    form = SimpleNamespace(latent_rgb_factors=FACTORS)
    previewer = latent_previewer(form)
    assert previewer is not None and previewer(latent).equal(rgb_previewer(FACTORS)(latent))
    assert latent_previewer(SimpleNamespace(latent_rgb_factors=None)) is None


def test_a_decoder_sees_the_first_item() -> None:
    def decode(latent: torch.Tensor) -> torch.Tensor:
        assert latent.shape == (1, 4, 2, 2)
        return torch.zeros(1, 3, 16, 16)

    assert decoded_previewer(decode)(torch.zeros(3, 4, 2, 2)).shape == (16, 16, 3)


def test_the_setting_finds_a_previewer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    form = SimpleNamespace(latent_rgb_factors=FACTORS, taesd_decoder_name="taesd_decoder")
    folders = Folders(tmp_path)
    folders.create()
    cpu, latent = torch.device("cpu"), torch.randn(1, 4, 2, 3)
    assert find_previewer(form, "none", folders, cpu) is None
    for method in ("auto", "latent2rgb", "taesd"):
        previewer = find_previewer(form, method, folders, cpu)
        assert previewer is not None and previewer(latent).shape == (2, 3, 3)
    assert "there is no taesd_decoder in models/vae_approx" in caplog.text
    torch.manual_seed(0)
    network = decoder()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    folder = folders.paths("vae_approx")[0]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / "taesd_decoder.safetensors")
    previewer = find_previewer(form, "taesd", Folders(tmp_path), cpu)
    assert previewer is not None
    with torch.no_grad():
        expected = network(latent)[0].movedim(0, -1) * 2 - 1
        torch.testing.assert_close(previewer(latent), expected)


def test_pictures() -> None:
    picture = torch.full((6, 12, 3), -9.0)
    picture[:, 6:] = 9.0
    image = preview_image(picture, 48)
    assert image.format == "JPEG"
    opened = Image.open(io.BytesIO(image.data))
    assert opened.size == (48, 24)
    assert opened.getpixel((2, 10)) == (0, 0, 0) and opened.getpixel((45, 10)) == (255, 255, 255)


def test_progress_and_the_last_denoised_latent() -> None:
    reported: list[Any] = []

    class Run:
        job_id = "job"

        def check_interrupted(self) -> None:
            if len(reported) == 2:
                raise comfyk.context.Interrupted

        def progress(self, node: str, value: float, total: float, preview: Any) -> None:
            reported.append((node, value, total, preview and preview.format))

    output: dict[str, torch.Tensor] = {}
    callback = step_callback(rgb_previewer(FACTORS), x0_output=output)
    x0 = torch.zeros(1, 4, 2, 2)
    call = comfyk.context.NodeCall(Run(), "job", "7", None)  # type: ignore[arg-type]
    with comfyk.context.node_call(call):
        callback(0, x0, x0, 3)
        callback(9, x0, x0, 3)
        with pytest.raises(comfyk.context.Interrupted):
            callback(1, x0, x0, 3)
    assert reported == [("7", 1, 3, "JPEG"), ("7", 3, 3, "JPEG")]
    assert output["x0"] is x0
