"""Networks that are too narrow for 32 groups of channels, against diffusers' own with as many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from comfyk_core_nodes.families.checkpoint import load_diffusion_model, load_vae
from comfyk_core_nodes.weights.files import ModelFileError
from safetensors.torch import save_file
from torch import nn

pytestmark = pytest.mark.usefixtures("seeded")

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(network: nn.Module, groups: str) -> Path:
        path = tmp_path / "network.safetensors"
        state = {name: value.clone() for name, value in network.state_dict().items()}
        save_file(state, path, {"norm_num_groups": groups})
        return path

    return save


def make_unet() -> nn.Module:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=768,
        attention_head_dim=8,
        norm_num_groups=8,
    )


def make_vae() -> nn.Module:
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
    )


def test_a_unet_is_normalized_as_its_metadata_says(save: Save) -> None:
    theirs = make_unet()
    x, timesteps, context = torch.randn(1, 4, 8, 8), torch.tensor([500.0]), torch.randn(1, 7, 768)
    expected = theirs(x, timesteps, encoder_hidden_states=context).sample

    def ours(groups: str) -> torch.Tensor:
        return load_diffusion_model(save(theirs, groups)).model.diffusion_model(x, timesteps, context)

    assert torch.allclose(ours("8"), expected, atol=1e-4)
    assert not torch.allclose(ours("32"), expected, atol=1e-2)


def test_an_autoencoder_is_normalized_as_its_metadata_says(save: Save) -> None:
    theirs = make_vae()
    latent = torch.randn(1, 4, 8, 8)
    expected = theirs.decode(latent).sample.movedim(1, -1) / 2 + 0.5
    picture = load_vae(save(theirs, "8")).decode(latent)
    assert torch.allclose(picture, expected.clamp(0, 1), atol=1e-4)


@pytest.mark.parametrize("groups", ["", "eight", "-8", "0", "12", "9" * 5000, "٣"])
def test_what_is_no_number_of_groups_is_refused(save: Save, groups: str) -> None:
    for make, load in ((make_unet, load_diffusion_model), (make_vae, load_vae)):
        with pytest.raises(ModelFileError, match=r"norm_num_groups|cannot be 12 groups|does not fit"):
            load(save(make(), groups))
