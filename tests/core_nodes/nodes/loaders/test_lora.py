"""LoRAs by their nodes, from a file to a latent: as a checkpoint whose weights were changed by the formula gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.usefixtures("in_a_job")

Out = Callable[..., Any]
File = dict[str, Tensor]
Change = Callable[[Tensor], Tensor]

QUERY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
CONV = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight"
KOHYA = {
    QUERY: "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    CONV: "lora_unet_down_blocks_0_resnets_0_conv1",
    TEXT: "lora_te_text_model_encoder_layers_1_mlp_fc1",
}
DIFFUSERS = {
    QUERY: "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    CONV: "unet.down_blocks.0.resnets.0.conv1",
    TEXT: "text_encoder.text_model.encoder.layers.1.mlp.fc1",
}
RANK, ALPHA = 2, 3.0
SCALE = ALPHA / RANK
MODEL, CLIP = 0.8, -0.6
"""Strengths for the two."""


def rand(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def matrices(shape: torch.Size, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Up `[O, R]` and down `[R, I...]`."""
    return rand(seed, shape[0], RANK), rand(seed + 1, RANK, *shape[1:])


def product(up: Tensor, down: Tensor) -> Tensor:
    return torch.einsum("or,r...->o...", up, down)


def as_conv(matrix: Tensor, dims: int) -> Tensor:
    return matrix.reshape(*matrix.shape, *[1] * (dims - 2))


def strong(change: Change) -> Callable[[Tensor, float], Tensor]:
    """What a file makes of a weight at a strength: linear in it."""
    return lambda weight, strength: weight + strength * (change(weight) - weight)


def lora(
    names: dict[str, str], up_name: str, down_name: str, alpha: bool
) -> Callable[[str, torch.Size], Any]:
    def make(key: str, shape: torch.Size) -> tuple[File, Change]:
        up, down = matrices(shape)
        file = {f"{names[key]}.{up_name}": as_conv(up, len(shape)), f"{names[key]}.{down_name}": down}
        if alpha:
            file[f"{names[key]}.alpha"] = torch.tensor(ALPHA)
        return file, lambda w: w + (SCALE if alpha else 1.0) * product(up, down)

    return make


def dora(key: str, shape: torch.Size) -> tuple[File, Change]:
    """Weight decomposed (Liu et al. 2024, arXiv:2402.09353), as LyCORIS normalises: by the weight's own rows."""
    file, change = lora(KOHYA, "lora_up.weight", "lora_down.weight", True)(key, shape)
    length = rand(9, shape[0], *[1] * (len(shape) - 1)).abs() + 0.5
    file[f"{KOHYA[key]}.dora_scale"] = length

    def decomposed(w: Tensor) -> Tensor:
        return change(w) * (length / w.flatten(1).norm(dim=1).reshape(length.shape))

    return file, decomposed


def tucker(key: str, shape: torch.Size) -> tuple[File, Change]:
    if len(shape) == 2:
        return {}, lambda w: w
    up, _ = matrices(shape)
    down, core = rand(1, RANK, shape[1]), rand(2, RANK, RANK, *shape[2:])
    tensors = {
        "lora_up.weight": as_conv(up, 4),
        "lora_down.weight": as_conv(down, 4),
        "lora_mid.weight": core,
    }
    file = {f"{KOHYA[key]}.{name}": tensor for name, tensor in tensors.items()}
    file[f"{KOHYA[key]}.alpha"] = torch.tensor(ALPHA)
    return file, lambda w: w + SCALE * torch.einsum("or,rskl,si->oikl", up, core, down)


def loha(key: str, shape: torch.Size) -> tuple[File, Change]:
    (a, b), (c, d) = matrices(shape, 0), matrices(shape, 5)
    tensors = {"hada_w1_a": a, "hada_w1_b": b.flatten(1), "hada_w2_a": c, "hada_w2_b": d.flatten(1)}
    file = {f"{KOHYA[key]}.{name}": tensor for name, tensor in tensors.items()}
    file[f"{KOHYA[key]}.alpha"] = torch.tensor(ALPHA)
    return file, lambda w: w + SCALE * product(a, b) * product(c, d)


def lokr(key: str, shape: torch.Size) -> tuple[File, Change]:
    first, (up, down) = rand(3, 4, 4), matrices(torch.Size([shape[0] // 4, shape[1] // 4, *shape[2:]]))
    file = {f"{KOHYA[key]}.lokr_w1": first, f"{KOHYA[key]}.alpha": torch.tensor(ALPHA)}
    if len(shape) == 2:
        file |= {f"{KOHYA[key]}.lokr_w2_a": up, f"{KOHYA[key]}.lokr_w2_b": down}
        return file, lambda w: w + SCALE * torch.kron(first, up @ down)
    whole = product(up, down)
    file[f"{KOHYA[key]}.lokr_w2"] = whole
    return file, lambda w: w + torch.kron(first[:, :, None, None], whole)


def full(key: str, shape: torch.Size) -> tuple[File, Change]:
    change = rand(4, *shape)
    return {f"{KOHYA[key]}.diff": change}, lambda w: w + change


def ia3(on_input: bool) -> Callable[[str, torch.Size], Any]:
    """Each output, or each input, larger or smaller (Liu et al. 2022, arXiv:2205.05638), as LyCORIS writes it."""

    def make(key: str, shape: torch.Size) -> tuple[File, Change]:
        places = shape[1 if on_input else 0]
        scales = rand(6, 1, places, *[1] * (len(shape) - 2))
        file = {f"{KOHYA[key]}.weight": scales, f"{KOHYA[key]}.on_input": torch.tensor(int(on_input))}
        letters = "o i ..., i -> o i ..." if on_input else "o i ..., o -> o i ..."
        return file, lambda w: torch.einsum(letters, w, 1 + scales.flatten())

    return make


KINDS: dict[str, Callable[[str, torch.Size], tuple[File, Change]]] = {
    "kohya": lora(KOHYA, "lora_up.weight", "lora_down.weight", True),
    "diffusers": lora(DIFFUSERS, "lora_B.weight", "lora_A.weight", False),
    "old diffusers": lora(DIFFUSERS, "lora.up.weight", "lora.down.weight", False),
    "dora": dora,
    "tucker": tucker,
    "loha": loha,
    "lokr": lokr,
    "full": full,
    "ia3": ia3(on_input=False),
    "ia3 on inputs": ia3(on_input=True),
}


def made(kind: str, checkpoint: File) -> tuple[File, dict[str, Callable[[Tensor, float], Tensor]]]:
    """The file of a kind for the three weights, and what each of them becomes."""
    file: File = {}
    changes: dict[str, Callable[[Tensor, float], Tensor]] = {}
    for key in (QUERY, CONV, TEXT):
        own, change = KINDS[kind](key, checkpoint[key].shape)
        file |= own
        changes[key] = strong(change)
    return file, changes


@pytest.fixture
def look(out: Out) -> Callable[..., tuple[Tensor, Tensor]]:
    """What a prompt is turned into, and one step with it."""

    def run(model: Any, clip: Any) -> tuple[Tensor, Tensor]:
        prompt = out("CLIPTextEncode", text="a house", clip=clip)
        fixed = [[torch.ones(1, 77, 64), {}]]
        latent = out(
            "KSampler", model=model, positive=fixed, negative=fixed, seed=1, steps=1, cfg=1.0, denoise=1.0,
            sampler_name="euler", scheduler="simple", latent_image={"samples": torch.zeros(1, 4, 8, 8)},
        )  # fmt: skip
        return prompt[0][0], latent["samples"]

    return run


@pytest.fixture
def changed(out: Out, put: Callable[..., str], states: Callable[[str], File]) -> Callable[..., Any]:
    """The checkpoint with weights replaced, as a node loads it."""

    def load(weights: File) -> Any:
        name = put("checkpoints", "tiny.safetensors", states("sd1") | weights)
        model, clip, _ = out("CheckpointLoaderSimple", ckpt_name=name)
        return model, clip

    return load


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors differ by less than this share of their size."""
    return bool((a - b).norm() <= tolerance * b.norm())


Strong = dict[str, Callable[[Tensor, float], Tensor]]


def apply(weights: File, changes: Strong, model: float = MODEL, clip: float = CLIP) -> File:
    return {key: changes[key](weights[key], clip if key == TEXT else model) for key in weights}


@pytest.mark.parametrize("kind", KINDS)
def test_a_lora(
    out: Out, put: Callable[..., str], states: Callable[[str], File], look: Any, changed: Any, kind: str
) -> None:
    file, changes = made(kind, states("sd1"))
    before = {key: states("sd1")[key] for key in changes}
    model, clip = changed({})
    name = put("loras", "a.safetensors", file)
    patched = out(
        "LoraLoader", model=model, clip=clip, lora_name=name, strength_model=MODEL, strength_clip=CLIP
    )
    got, plain = look(*patched), look(model, clip)
    expected = look(*changed(apply(before, changes)))
    for part in (0, 1):
        assert close(got[part], expected[part])
        if kind != "tucker" or part:
            assert (plain[part] - expected[part]).norm() > 1e-2 * plain[part].norm(), "it makes a difference"


def test_several_at_once(
    out: Out, put: Callable[..., str], states: Callable[[str], File], look: Any, changed: Any
) -> None:
    """One after another, each at its strengths; the model without them is what it was."""
    model, clip = changed({})
    plain = look(model, clip)
    weights = {key: states("sd1")[key] for key in (QUERY, CONV, TEXT)}
    patched = (model, clip)
    for kind, strengths in {
        "loha": (0.5, 1.0),
        "dora": (1.0, 0.7),
        "lokr": (-0.4, 0.0),
        "full": (0.0, 0.3),
    }.items():
        file, changes = made(kind, states("sd1"))
        weights = apply(weights, changes, *strengths)
        patched = out(
            "LoraLoader", model=patched[0], clip=patched[1], lora_name=put("loras", f"{kind}.safetensors", file),
            strength_model=strengths[0], strength_clip=strengths[1],
        )  # fmt: skip
    got, expected = look(*patched), look(*changed(weights))
    for part in (0, 1):
        assert close(got[part], expected[part])
    for before, after in zip(plain, look(model, clip), strict=True):
        assert torch.equal(before, after)


def test_the_model_alone(
    out: Out, put: Callable[..., str], states: Callable[[str], File], look: Any, changed: Any
) -> None:
    file, changes = made("kohya", states("sd1"))
    before = {key: states("sd1")[key] for key in (QUERY, CONV)}
    model, clip = changed({})
    name = put("loras", "a.safetensors", file)
    patched = out("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=MODEL)
    expected = look(*changed(apply(before, changes)))
    for part in (0, 1):
        assert close(look(patched, clip)[part], expected[part])
