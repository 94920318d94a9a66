"""The networks against those of diffusers, through files of every layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyk_core_nodes.control.controlnet import ControlNet
from comfyk_core_nodes.control.layouts import diffusers_controlnet_to_original
from comfyk_core_nodes.control.load import load_controlnet
from comfyk_core_nodes.families.sd.unet import timestep_embedding
from diffusers import ControlNetModel, ControlNetUnionModel
from torch import Tensor

from .conftest import HINT, SD1, SDXL, TEXT, close, randomise

TIMESTEPS = torch.tensor([500.0, 20.0])


def network_of(path: Path) -> Any:
    control = load_controlnet(path)
    assert isinstance(control, ControlNet)
    return control.control_model


def same(ours: dict[str, list[Tensor]], theirs: Any) -> bool:
    down, mid = theirs.down_block_res_samples, theirs.mid_block_res_sample
    assert len(ours["output"]) == len(down)
    return close(ours["middle"][0], mid) and all(
        close(a, b) for a, b in zip(ours["output"], down, strict=True)
    )


@pytest.mark.parametrize("layout", ["diffusers", "bare", "prefixed", "pth"])
def test_sd1(
    layout: str, sd1_control: ControlNetModel, save: Callable[..., Path], draw: Callable[..., Tensor]
) -> None:
    state = sd1_control.state_dict()
    if layout != "diffusers":
        original = diffusers_controlnet_to_original(state)
        assert original is not None
        prefix = "control_model." if layout in ("prefixed", "pth") else ""
        state = {prefix + key: value for key, value in original.items()}
    network = network_of(save(state, "control.pth" if layout == "pth" else "control.safetensors"))
    x, text, hint = draw(2, 4, 8, 8), draw(2, 5, TEXT), draw(1, 3, 64, 64)
    with torch.no_grad():
        ours = network(x, hint, TIMESTEPS, text)
        theirs = sd1_control(x, TIMESTEPS, text, hint.repeat(2, 1, 1, 1))
    assert same(ours, theirs)


def test_sdxl(save: Callable[..., Path], draw: Callable[..., Tensor]) -> None:
    theirs = randomise(ControlNetModel(**SDXL, **HINT))
    network = network_of(save(theirs.state_dict()))
    x, text, hint = draw(2, 4, 8, 8), draw(2, 5, TEXT), draw(2, 3, 64, 64)
    pooled, sizes = draw(2, 16), torch.tensor([[64.0, 64, 0, 8, 64, 64], [32, 64, 4, 0, 64, 64]])
    y = torch.cat([pooled, timestep_embedding(sizes.flatten(), 8).reshape(2, -1)], dim=1)
    with torch.no_grad():
        expected = theirs(
            x, TIMESTEPS, text, hint, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}
        )
        assert same(network(x, hint, TIMESTEPS, text, y), expected)
    with pytest.raises(ValueError, match="SDXL"):
        network(x, hint, TIMESTEPS, text)
    with pytest.raises(ValueError, match=r"a vector of 64 numbers; this model's has 56: .* model's family"):
        network(x, hint, TIMESTEPS, text, y[:, :56])


def test_text_of_another_family_is_named(
    sd1_control: ControlNetModel, save: Callable[..., Path], draw: Callable[..., Tensor]
) -> None:
    network = network_of(save(sd1_control.state_dict()))
    with pytest.raises(ValueError, match=r"24 channels; this model's has 32"):
        network(draw(1, 4, 8, 8), draw(1, 3, 64, 64), TIMESTEPS[:1], draw(1, 5, 32))


def test_a_net_for_sd1_on_a_model_with_a_vector(
    sd1_control: ControlNetModel, save: Callable[..., Path], draw: Callable[..., Tensor]
) -> None:
    network = network_of(save(sd1_control.state_dict()))
    with pytest.raises(ValueError, match=r"for SD 1\.x, and the model takes a vector of 56 numbers"):
        network(draw(1, 4, 8, 8), draw(1, 3, 64, 64), TIMESTEPS[:1], draw(1, 5, TEXT), draw(1, 56))


def test_small_sdxl_net_without_attention_to_text(
    save: Callable[..., Path], draw: Callable[..., Tensor]
) -> None:
    config = {
        **SDXL,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "transformer_layers_per_block": (0, 0),
    }
    theirs = randomise(ControlNetModel(**config, **HINT))
    network = network_of(save(theirs.state_dict()))
    x, text, hint, pooled = draw(2, 4, 8, 8), draw(2, 5, TEXT), draw(2, 3, 64, 64), draw(2, 16)
    sizes = torch.ones(2, 6)
    y = torch.cat([pooled, timestep_embedding(sizes.flatten(), 8).reshape(2, -1)], dim=1)
    with torch.no_grad():
        expected = theirs(
            x, TIMESTEPS, text, hint, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}
        )
        assert same(network(x, hint, TIMESTEPS, text, y), expected)


@pytest.fixture(scope="module")
def theirs() -> Any:
    sizes = {"num_trans_channel": 64, "num_proj_channel": 64, "num_control_type": 6}
    return randomise(ControlNetUnionModel(**SDXL, **HINT, **sizes))


class TestUnion:
    @pytest.fixture
    def run(
        self, theirs: Any, save: Callable[..., Path], draw: Callable[..., Tensor]
    ) -> Callable[..., dict[str, list[Tensor]]]:
        network = network_of(save(theirs.state_dict()))

        def call(types: list[int], hint: Tensor | None = None) -> dict[str, list[Tensor]]:
            hint = draw(1, 3, 64, 64) if hint is None else hint
            with torch.no_grad():
                return network(
                    draw(1, 4, 8, 8), hint, TIMESTEPS[:1], draw(1, 5, TEXT), draw(1, 64), control_type=types
                )

        return call

    def expected(self, theirs: Any, draw: Callable[..., Tensor], types: list[int]) -> Tensor:
        """The first residual, by the layers of diffusers in the order of ComfyUI (which leaves the latent out)."""
        x, y = draw(1, 4, 8, 8), draw(1, 64)
        given = torch.zeros(6)
        given[types] = 1.0
        emb = theirs.time_embedding(timestep_embedding(TIMESTEPS[:1], 64))
        emb = emb + theirs.add_embedding(y)
        emb = emb + theirs.control_add_embedding(timestep_embedding(given, 8).reshape(1, -1))
        hint = theirs.controlnet_cond_embedding(draw(1, 3, 64, 64))
        if types:
            token = hint.mean(dim=(2, 3)) + theirs.task_embedding[types[0]]
            for layer in theirs.transformer_layes:
                token = layer(token.unsqueeze(1)).squeeze(1)
            hint = hint + theirs.spatial_ch_projs(token)[:, :, None, None]
        h = theirs.conv_in(x) + hint
        h = theirs.down_blocks[0](h, emb)[1][0]
        return theirs.controlnet_down_blocks[1](h)

    @pytest.mark.parametrize("types", [[], [0], [5]])
    def test_as_the_layers_of_diffusers(
        self, types: list[int], theirs: Any, run: Callable[..., Any], draw: Callable[..., Tensor]
    ) -> None:
        with torch.no_grad():
            assert close(run(types)["output"][1], self.expected(theirs, draw, types))

    def test_several_hints(self, run: Callable[..., Any], draw: Callable[..., Tensor]) -> None:
        hints = torch.stack([draw(1, 3, 64, 64), draw(1, 3, 64, 64, seed=1)])
        both = run([1, 3], hints)["middle"][0]
        assert not close(both, run([1])["middle"][0], 1e-2)
        assert close(both, run([3, 1], hints.flip(0))["middle"][0])

    def test_a_type_that_it_was_not_trained_with(self, run: Callable[..., Any]) -> None:
        with pytest.raises(ValueError, match="knows 6 types of hints, and 'tile'"):
            run([6])


def test_half_precision_files_are_computed_in_what_the_device_is_good_at(
    sd1_control: ControlNetModel, save: Callable[..., Path]
) -> None:
    state = {key: value.half() for key, value in sd1_control.state_dict().items()}
    control = load_controlnet(save(state))
    assert isinstance(control, ControlNet)
    assert control.control_model.dtype == torch.float16
    assert control.manual_cast_dtype == control.control_model_wrapped.compute_dtype()


def test_config_is_read_from_the_keys(sd1_control: ControlNetModel, save: Callable[..., Path]) -> None:
    network = network_of(save(sd1_control.state_dict()))
    assert (network.model_channels, network.context_dim, network.hint_channels) == (32, TEXT, 3)
    assert network.compression_ratio == 8
    assert SD1["block_out_channels"][0] == network.model_channels
