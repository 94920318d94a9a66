"""Loading: families told apart, layouts, dtypes, and the models that come out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfyk_core_nodes.families.base_model import ModelType
from comfyk_core_nodes.families.checkpoint import (
    load_checkpoint,
    load_clip,
    load_diffusion_model,
    load_vae,
)
from comfyk_core_nodes.families.registry import model_families
from comfyk_core_nodes.families.sd.latent_formats import SD15, SDXL_Playground_2_5
from comfyk_core_nodes.families.sd.models import BLANK_LATENT, SDXL, InstructPix2Pix, SDXLRefiner
from comfyk_core_nodes.families.sd.registrations import UNET
from comfyk_core_nodes.families.sd.unet import timestep_embedding
from comfyk_core_nodes.images.batch import spread_over_batch
from comfyk_core_nodes.weights.files import ModelFileError
from comfyk_core_nodes.weights.state_dict import with_prefix
from safetensors.torch import save_file
from torch import Tensor

pytestmark = pytest.mark.usefixtures("seeded")

StateDict = dict[str, Tensor]
Make = Callable[..., StateDict]
CPU = torch.device("cpu")


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(state: StateDict, name: str = "model.safetensors", **metadata: str) -> Path:
        save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / name, metadata=metadata)
        return tmp_path / name

    return write


def apply(model: Any, **kwargs: Any) -> Tensor:
    """One step of the model in a patcher on fixed noise."""
    generator = torch.Generator().manual_seed(3)
    context = torch.randn(1, 77, model.model.model_config.unet_config["context_dim"], generator=generator)
    x = torch.randn(1, 4, 8, 8, generator=generator)
    return model.model.apply_model(x, torch.tensor([2.0]), c_crossattn=context, **kwargs)


@pytest.mark.parametrize(
    ("family", "width", "pooled"),
    [("sd1", 64, 64), ("sd2", 64, 64), ("sdxl", 128, 48), ("sdxl_refiner", 64, 48)],
)
def test_a_checkpoint_of_each_family(
    checkpoint_state: Make, save: Callable[..., Path], family: str, width: int, pooled: int
) -> None:
    found = load_checkpoint(save(checkpoint_state(family)))
    assert found.model is not None and found.clip is not None and found.vae is not None
    assert found.model.model.model_config.name == family
    cond = found.clip.encode_from_tokens_scheduled(found.clip.tokenize("a (red:1.4) cat"))
    assert cond[0][0].shape == (1, 77, width)
    assert cond[0][1]["pooled_output"].shape == (1, pooled)
    model = found.model.model
    conds = model.extra_conds(
        noise=torch.zeros(1, 4, 8, 8), device=CPU, cross_attn=cond[0][0], width=64, height=96, **cond[0][1]
    )
    inputs = {name: value.process_cond(1).cond for name, value in conds.items()}
    out = model.apply_model(torch.randn(1, 4, 8, 8), torch.tensor([5.0]), **inputs)
    assert out.shape == (1, 4, 8, 8)
    assert bool(out.isfinite().all())
    image = found.vae.decode(torch.randn(1, 4, 4, 4))
    assert image.shape == (1, 32, 32, 3)
    assert float(image.min()) >= 0 and float(image.max()) <= 1
    assert found.vae.encode(image).shape == (1, 4, 4, 4)


def test_parts_that_are_not_asked_for(checkpoint_state: Make, save: Callable[..., Path]) -> None:
    path = save(checkpoint_state("sd1"))
    found = load_checkpoint(path, output_model=False, output_clip=False)
    assert found.model is None and found.clip is None and found.vae is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float32])
def test_stored_dtypes(checkpoint_state: Make, save: Callable[..., Path], dtype: torch.dtype) -> None:
    state = {key: value.to(dtype) for key, value in checkpoint_state("sd1").items()}
    model = load_checkpoint(save(state)).model
    exact = load_checkpoint(save({k: v.float() for k, v in state.items()}, "exact.safetensors")).model
    assert model is not None and exact is not None
    assert model.model.diffusion_model.dtype == dtype
    assert model.model.diffusion_model.input_blocks[0][0].weight.dtype == dtype
    assert torch.allclose(apply(model), apply(exact), atol=1e-5)


def test_prediction_by_marks(checkpoint_state: Make, save: Callable[..., Path]) -> None:
    def loaded(family: str, marks: dict[str, Tensor], **metadata: str) -> Any:
        path = save(checkpoint_state(family) | marks, **metadata)
        found = load_checkpoint(path, output_clip=False, output_vae=False).model
        assert found is not None
        return found.model

    empty = torch.zeros(0)
    assert loaded("sdxl", {}).model_type == ModelType.EPS
    assert loaded("sdxl", {"v_pred": empty}).model_type == ModelType.V_PREDICTION
    both = loaded("sdxl", {"v_pred": empty, "ztsnr": empty})
    assert float(both.model_sampling.sigma_max) == pytest.approx(4518, abs=2)
    assert loaded("sd1", {}, **{"modelspec.prediction_type": "v"}).model_type == ModelType.V_PREDICTION
    playground = loaded("sdxl", {"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)})
    assert playground.model_type == ModelType.EDM
    assert isinstance(playground.latent_format, SDXL_Playground_2_5)
    cosxl = loaded("sdxl", {"edm_vpred.sigma_max": torch.tensor(80.0)})
    assert cosxl.model_type == ModelType.V_PREDICTION_EDM
    assert float(cosxl.model_sampling.sigma_max) == pytest.approx(80.0)


def test_a_spread_norm_says_that_sd2_predicts_v() -> None:
    numbers = {
        "in_channels": 4,
        "channel_mult": [1, 2],
        "transformer_depth": [1, 0],
        "use_linear_in_transformer": True,
        "adm_in_channels": None,
        "context_dim": 1024,
    }
    key = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
    for spread, expected in ((0.05, "eps"), (0.2, "v")):
        config = model_families().config(UNET, numbers, {key: torch.tensor([-spread, spread])}, {}, {})
        assert config is not None and config.prediction == expected
    config = model_families().config(
        UNET, {**numbers, "in_channels": 9}, {key: torch.tensor([-1.0, 1.0])}, {}, {}
    )
    assert config is not None and config.prediction == "eps"


def test_inpainting_takes_a_mask_and_a_picture(checkpoint_state: Make, save: Callable[..., Path]) -> None:
    found = load_checkpoint(save(checkpoint_state("sd1", 9)), output_clip=False).model
    assert found is not None
    model, noise = found.model, torch.zeros(2, 4, 8, 8)
    blank = model.extra_conds(noise=noise, device=CPU)["c_concat"].cond
    assert blank.shape == (2, 5, 8, 8)
    assert blank[0, :, 3, 3].tolist() == pytest.approx([1.0, *BLANK_LATENT])
    image, mask = torch.ones(1, 4, 4, 4), torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    given = model.extra_conds(noise=noise, device=CPU, concat_latent_image=image, concat_mask=mask)
    concat = given["c_concat"].cond
    assert concat[:, 0, 0].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 2
    assert concat[0, 1, 0, 0] == pytest.approx(SD15.scale_factor)
    assert apply(found, c_concat=concat[:1]).shape == (1, 4, 8, 8)


def test_instruct_pix2pix_takes_a_picture(checkpoint_state: Make, save: Callable[..., Path]) -> None:
    found = load_checkpoint(save(checkpoint_state("sd1", 8)), output_clip=False).model
    assert found is not None and isinstance(found.model, InstructPix2Pix)
    noise, image = torch.zeros(2, 4, 8, 8), torch.full((1, 4, 16, 16), 2.0)
    assert found.model.extra_conds(noise=noise, device=CPU)["c_concat"].cond.abs().sum() == 0
    concat = found.model.extra_conds(noise=noise, device=CPU, concat_latent_image=image)["c_concat"].cond
    assert concat.shape == (2, 4, 8, 8) and bool((concat == 2).all())


def test_vectors_of_sdxl(checkpoint_state: Make, save: Callable[..., Path]) -> None:
    def vector(model: Any, *values: float) -> Tensor:
        numbers = timestep_embedding(torch.tensor(values), 256).flatten()
        return torch.cat([pooled[0], numbers])

    pooled = torch.randn(1, 48)
    common = {"pooled_output": pooled, "width": 640, "height": 512, "crop_w": 8, "crop_h": 16}
    base = load_checkpoint(save(checkpoint_state("sdxl"))).model
    assert base is not None and type(base.model) is SDXL
    got = base.model.encode_adm(**common, target_width=1024)
    assert torch.allclose(got[0], vector(base.model, 512, 640, 16, 8, 512, 1024))
    refiner = load_checkpoint(save(checkpoint_state("sdxl_refiner"))).model
    assert refiner is not None and type(refiner.model) is SDXLRefiner
    for kind, score in (("positive", 6.0), ("negative", 2.5)):
        got = refiner.model.encode_adm(**common, prompt_type=kind)
        assert torch.allclose(got[0], vector(refiner.model, 512, 640, 16, 8, score))
    embeds = SimpleNamespace(image_embeds=torch.randn(1, 48))
    unclip = [{"clip_vision_output": embeds, "strength": 1.0, "noise_augmentation": 0.0}]
    got = base.model.encode_adm(unclip_conditioning=unclip, device=CPU, seed=5, **common)
    assert got.shape == (1, 48 + 6 * 256)


def test_files_of_one_network(checkpoint_state: Make, save: Callable[..., Path]) -> None:
    state = checkpoint_state("sd1")
    whole = load_checkpoint(save(state))
    assert whole.model is not None and whole.clip is not None and whole.vae is not None
    unet = with_prefix(state, "model.diffusion_model.")
    for prefix in ("", "model.diffusion_model.", "diffusion_model."):
        alone = load_diffusion_model(save({prefix + k: v for k, v in unet.items()}, "unet.safetensors"))
        # Where a file puts a weight may change the last bit of what is computed with it.
        assert torch.allclose(apply(alone), apply(whole.model), atol=1e-5)
    latent = torch.randn(1, 4, 4, 4)
    vae = with_prefix(state, "first_stage_model.")
    for prefix in ("", "first_stage_model.", "vae."):
        alone = load_vae(save({prefix + k: v for k, v in vae.items()}, "vae.safetensors"))
        assert torch.allclose(alone.decode(latent), whole.vae.decode(latent), atol=1e-5)
    text = with_prefix(state, "cond_stage_model.transformer.")
    tokens = whole.clip.tokenize("a cat")
    short = {k.removeprefix("text_model."): v for k, v in text.items()}
    for prefix, names in (("", text), ("text_encoder.", text), ("", short), ("clip_l.transformer.", text)):
        clip = load_clip([save({prefix + k: v for k, v in names.items()}, "clip.safetensors")])
        cond, expected = clip.encode_from_tokens(tokens), whole.clip.encode_from_tokens(tokens)
        assert torch.allclose(cond, expected, atol=1e-5)


def test_old_checkpoints(checkpoint_state: Make, tmp_path: Path) -> None:
    """A pickle, text keys from before `text_model.`, and positions stored as floats."""
    state: dict[str, Any] = {
        key.replace("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."): value
        for key, value in checkpoint_state("sd1").items()
    }
    state["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77.0)[None]
    torch.save({"state_dict": state, "global_step": 5}, tmp_path / "old.ckpt")
    found = load_checkpoint(tmp_path / "old.ckpt")
    assert found.clip is not None
    assert found.clip.encode("cat").shape == (1, 77, 64)


def test_two_text_encoders_in_two_files(save: Callable[..., Path], checkpoint_state: Make) -> None:
    state = checkpoint_state("sdxl")
    clip_l = save(with_prefix(state, "conditioner.embedders.0.transformer."), "l.safetensors")
    with pytest.raises(ModelFileError, match=r"l.safetensors.*second time"):
        load_clip([clip_l, clip_l])


def test_clip_skip_and_unprojected(checkpoint_state: Make, save: Callable[..., Path]) -> None:
    clip = load_checkpoint(save(checkpoint_state("sdxl"))).clip
    assert clip is not None
    tokens = clip.tokenize("a cat")
    cond, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    skipped = clip.clone()
    skipped.clip_layer(-3)
    assert not torch.allclose(skipped.encode_from_tokens(tokens), cond)
    assert torch.equal(clip.encode_from_tokens(tokens), cond)
    skipped.clip_layer(-24)  # deeper than it is
    assert torch.equal(skipped.encode_from_tokens(tokens), cond)
    assert pooled.shape == (1, 48)
    assert clip.encode_from_tokens(tokens, return_pooled="unprojected")[1].shape == (1, 64)


def test_weights_move_tokens_away_from_the_empty_prompt(
    checkpoint_state: Make, save: Callable[..., Path]
) -> None:
    clip = load_checkpoint(save(checkpoint_state("sd1"))).clip
    assert clip is not None
    empty, full = clip.encode(""), clip.encode("cat")
    weighted = clip.encode("(cat:1.7)")
    assert torch.allclose(weighted[:, 1], empty[:, 1] + 1.7 * (full[:, 1] - empty[:, 1]), atol=1e-5)
    assert torch.allclose(weighted[:, 2:], full[:, 2:], atol=1e-6)
    assert clip.encode("word " * 100).shape == (1, 154, 64)


def test_an_embedding_is_put_among_the_tokens(
    checkpoint_state: Make, save: Callable[..., Path], tmp_path: Path
) -> None:
    state = checkpoint_state("sd1")
    table = state["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"]
    (tmp_path / "embeddings").mkdir()
    save_file({"emb": table[[2368]].clone()}, tmp_path / "embeddings" / "kitten.safetensors")
    save_file({"emb": torch.ones(1, 48)}, tmp_path / "embeddings" / "wide.safetensors")
    clip = load_checkpoint(save(state), [str(tmp_path / "embeddings")]).clip
    assert clip is not None
    assert torch.allclose(clip.encode("a embedding:kitten photo"), clip.encode("a cat photo"), atol=1e-6)
    assert torch.allclose(clip.encode("a embedding:wide photo"), clip.encode("a photo"), atol=1e-6)


def test_what_is_not_a_checkpoint_is_named(checkpoint_state: Make, save: Callable[..., Path]) -> None:
    lora = save({"lora_unet_x.lora_up.weight": torch.zeros(1)}, "lora.safetensors")
    for load in (load_checkpoint, load_diffusion_model, load_vae, lambda path: load_clip([path])):
        with pytest.raises(ModelFileError, match=r"lora.safetensors: .* found a LoRA"):
            load(lora)
    with pytest.raises(ModelFileError, match="found 1 tensors of something else"):
        load_checkpoint(save({"x": torch.zeros(1)}))


def test_an_incomplete_checkpoint_is_named(checkpoint_state: Make, save: Callable[..., Path]) -> None:
    state = checkpoint_state("sd1")
    lacking = {k: v for k, v in state.items() if "middle_block.0.in_layers.2" not in k}
    with pytest.raises(ModelFileError, match=r"model.safetensors.*middle_block.0.in_layers.2"):
        load_checkpoint(save(lacking))
    bent = dict(state)
    bent["first_stage_model.decoder.conv_out.bias"] = torch.zeros(7)
    with pytest.raises(ModelFileError, match=r"decoder.conv_out.bias has the shape \[7\], not \[3\]"):
        load_checkpoint(save(bent))
    for key in [key for key in state if key.endswith("weight") and "diffusion_model" in key][::7]:
        bent = {**state, key: torch.zeros(1)}
        with pytest.raises(ModelFileError, match=r"model.safetensors"):
            load_checkpoint(save(bent))


def test_spreading_over_a_batch() -> None:
    items = torch.arange(3.0)
    assert spread_over_batch(items, 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert spread_over_batch(items, 2).tolist() == [0, 2]
    assert spread_over_batch(items, 1).tolist() == [0]
    assert spread_over_batch(items, 3) is items
