"""A batch of two is two batches of one: through every sampler with a UNet, and through the other networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfyk_core_nodes.conditioning.edit import apply_controlnet
from comfyk_core_nodes.control.load import load_controlnet
from comfyk_core_nodes.families.checkpoint import Checkpoint
from comfyk_core_nodes.sampling.brownian import BrownianTreeNoiseSampler
from comfyk_core_nodes.sampling.cond_batch import calc_cond_batch
from comfyk_core_nodes.sampling.names import SAMPLER_NAMES
from comfyk_core_nodes.sampling.prepare import convert_cond, process_conds
from comfyk_core_nodes.sampling.run import ksampler, sample_custom
from comfyk_core_nodes.sampling.sampler_table import SAMPLERS
from safetensors.torch import save_file
from torch import Tensor

from ..tiny_models import randomised
from .conftest import CONTEXT, drawn, prompt

SIGMAS = torch.tensor([14.6, 6.0, 2.0, 0.4, 0.0])
NOISE = drawn(2, 4, 8, 8, seed=1)
LATENT = drawn(2, 4, 8, 8, seed=2)


def noises(items: slice) -> Callable[[Tensor, Tensor], Tensor]:
    """Noise for a batch of two, in order, of which a run has the `items`."""
    generator = torch.Generator().manual_seed(5)
    return lambda sigma, sigma_next: torch.randn(2, 4, 8, 8, generator=generator)[items]


def run(model: Any, name: str, items: slice, positive: Any = None, **options: Any) -> Tensor:
    """The latents of those of the two items, sampled together."""
    return sample_custom(
        model,
        NOISE[items],
        3.0,
        ksampler(name, options),
        SIGMAS,
        positive or prompt(3),
        prompt(4),
        LATENT[items],
        seed=9,
    )


def noise_option(name: str, items: slice) -> dict[str, Any]:
    parameters = inspect.signature(SAMPLERS[name]).parameters
    return {"noise_sampler": noises(items)} if "noise_sampler" in parameters else {}


def close(a: Tensor, b: Tensor) -> None:
    assert float((a - b).norm()) < 1e-4 * float(b.norm())


@pytest.mark.parametrize("name", [name for name in SAMPLER_NAMES if name != "dpm_adaptive"])
def test_two_items_are_two_runs_of_one(name: str, checkpoint: Checkpoint) -> None:
    """With noise of the step as a whole sliced for the item, as a batch has it."""
    both = run(checkpoint.model, name, slice(0, 2), **noise_option(name, slice(0, 2)))
    for i in range(2):
        one = slice(i, i + 1)
        close(run(checkpoint.model, name, one, **noise_option(name, one)), both[one])


def test_dpm_adaptive_has_steps_for_the_batch_as_a_whole(checkpoint: Checkpoint) -> None:
    """The error that it measures is the mean over all items, so the items agree as far as the tolerance goes."""
    tight = {"rtol": 1e-2, "atol": 1e-3}
    both = run(checkpoint.model, "dpm_adaptive", slice(0, 2), **tight)
    twice = torch.cat([run(checkpoint.model, "dpm_adaptive", slice(i, i + 1), **tight) for i in range(2)])
    assert float((twice - both).norm()) < 5e-2 * float(both.norm())


@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"])
def test_brownian_paths_of_an_item_each(name: str, checkpoint: Checkpoint) -> None:
    """With a seed for each item, the items do not know of each other, their noise included."""

    def path(*seeds: int) -> BrownianTreeNoiseSampler:
        like = torch.zeros(len(seeds), 4, 8, 8)
        return BrownianTreeNoiseSampler(like, 0.4, 14.6, seed=list(seeds), cpu=True)

    both = run(checkpoint.model, name, slice(0, 2), noise_sampler=path(7, 8))
    close(run(checkpoint.model, name, slice(0, 1), noise_sampler=path(7)), both[:1])
    close(run(checkpoint.model, name, slice(1, 2), noise_sampler=path(8)), both[1:])


def test_a_prompt_for_each_item(checkpoint: Checkpoint) -> None:
    """Prompts of a batch go to the items one by one."""
    pair = [[torch.cat([prompt(6)[0][0], prompt(7)[0][0]]), {}]]
    both = run(checkpoint.model, "euler", slice(0, 2), pair)
    close(run(checkpoint.model, "euler", slice(0, 1), prompt(6)), both[:1])
    close(run(checkpoint.model, "euler", slice(1, 2), prompt(7)), both[1:])


def test_cond_and_uncond_together_are_one_after_the_other(checkpoint: Checkpoint) -> None:
    model: Any = checkpoint.model
    halves = {"positive": convert_cond(prompt(3)), "negative": convert_cond(prompt(4))}
    conds = list(process_conds(model.model, NOISE, halves, torch.device("cpu"), latent_image=LATENT).values())
    for level in (14.0, 1.0, 0.05):
        sigma = torch.full((2,), level)
        together = calc_cond_batch(model.model, conds, NOISE * level, sigma, {})
        for cond, result in zip(conds, together, strict=True):
            close(calc_cond_batch(model.model, [cond], NOISE * level, sigma, {})[0], result)


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from diffusers.models.controlnets.controlnet import ControlNetModel

    torch.manual_seed(11)
    net = ControlNetModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        cross_attention_dim=CONTEXT,
        attention_head_dim=8,
        conditioning_embedding_out_channels=(8, 16, 24, 32),
    )
    with torch.no_grad():
        state = randomised(net).state_dict()
    path = tmp_path_factory.mktemp("control") / "control.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return load_controlnet(path)


def test_a_hint_for_each_item(checkpoint: Checkpoint, control: Any) -> None:
    hints = drawn(2, 64, 64, 3, seed=8).sigmoid()

    def controlled(items: slice) -> Tensor:
        positive, negative = apply_controlnet([prompt(3), prompt(4)], control, hints[items], 0.8)
        return sample_custom(
            checkpoint.model,
            NOISE[items],
            3.0,
            ksampler("euler"),
            SIGMAS,
            positive,
            negative,
            LATENT[items],
            seed=9,
        )

    both = controlled(slice(0, 2))
    assert float((both - run(checkpoint.model, "euler", slice(0, 2))).norm()) > 1e-2 * float(both.norm())
    for i in range(2):
        close(controlled(slice(i, i + 1)), both[i : i + 1])


def test_pictures_and_latents(checkpoint: Checkpoint) -> None:
    vae = checkpoint.vae
    assert vae is not None
    pictures = drawn(2, 40, 72, 3, seed=9).sigmoid()
    close(torch.cat([vae.encode(picture[None]) for picture in pictures]), vae.encode(pictures))
    close(torch.cat([vae.decode(latent[None]) for latent in LATENT]), vae.decode(LATENT))
    tiled = vae.decode_tiled(LATENT, tile_x=6, tile_y=6, overlap=2)
    one_by_one = [vae.decode_tiled(latent[None], tile_x=6, tile_y=6, overlap=2) for latent in LATENT]
    close(torch.cat(one_by_one), tiled)


def test_chunks_of_a_prompt(checkpoint: Checkpoint) -> None:
    """A long prompt is encoded as a batch of chunks of 75 tokens, each as if it were alone."""
    clip = checkpoint.clip
    assert clip is not None
    first, second = " ".join(["cat"] * 75), " ".join(["dog"] * 20)
    together = clip.encode(f"{first} {second}")
    assert together.shape == (1, 154, CONTEXT)
    close(torch.cat([clip.encode(first), clip.encode(second)], dim=1), together)
