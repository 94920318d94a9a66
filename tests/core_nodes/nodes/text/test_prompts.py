"""Prompts by their nodes, with the text model of transformers as the witness."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfyk.app import App
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

pytestmark = pytest.mark.usefixtures("in_a_job")

Out = Callable[..., Any]
File = dict[str, Tensor]

PREFIX = "cond_stage_model.transformer."
START, END = 49406, 49407
HOUSE, RED = 1212, 736
"""The tokens of `house</w>` and `red</w>`."""


@pytest.fixture
def witness(states: Callable[[str], File]) -> CLIPTextModel:
    config = CLIPTextConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=1,
        hidden_act="quick_gelu",
        eos_token_id=END,
        projection_dim=64,
    )
    model = CLIPTextModel(config).eval()
    own = {key.removeprefix(PREFIX): value for key, value in states("sd1").items() if key.startswith(PREFIX)}
    wanted = set(model.state_dict())
    if not wanted & set(own):
        own = {key.removeprefix("text_model."): value for key, value in own.items()}
    assert wanted <= set(own)
    model.load_state_dict({key: own[key] for key in wanted})
    return model


@pytest.fixture
def clip(out: Out, put: Callable[..., str], states: Callable[[str], File]) -> Any:
    return out("CheckpointLoaderSimple", ckpt_name=put("checkpoints", "a.safetensors", states("sd1")))[1]


def vectors(model: CLIPTextModel, tokens: list[int | Tensor]) -> Tensor:
    """The 77 vectors that a prompt of these tokens begins with, before places are added."""
    table: Any = model.get_input_embeddings().weight
    line = [table[token] if isinstance(token, int) else token for token in (START, *tokens, END)]
    return torch.stack(line + [table[END]] * (77 - len(line)))


def hidden_states(model: CLIPTextModel, start: Tensor) -> list[Tensor]:
    """The states behind each layer for 77 vectors, which transformers takes through its table of tokens only."""
    table: Any = model.get_input_embeddings()
    before = table.weight.data
    table.weight.data = torch.cat([before, start])
    try:
        numbers = torch.arange(len(before), len(before) + 77)[None]
        return list(model(numbers, output_hidden_states=True).hidden_states)
    finally:
        table.weight.data = before


def normed(model: Any, state: Tensor) -> Tensor:
    return getattr(model, "text_model", model).final_layer_norm(state)


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).norm() <= 1e-4 * b.norm())


@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_an_earlier_layer(out: Out, clip: Any, witness: CLIPTextModel, layer: int) -> None:
    other = out("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=layer)
    ((cond, _),) = out("CLIPTextEncode", text="red house", clip=other)
    states = hidden_states(witness, vectors(witness, [RED, HOUSE]))
    assert close(cond, normed(witness, states[layer]))
    ((whole, _),) = out("CLIPTextEncode", text="red house", clip=clip)
    assert close(whole, normed(witness, states[-1])), "the first one is as it was"


@pytest.mark.parametrize("text", ["red embedding:two house", "red embedding:two.safetensors, house"])
def test_an_embedding(
    out: Out, put: Callable[..., str], clip: Any, witness: CLIPTextModel, text: str
) -> None:
    trained = torch.randn(2, 64)
    put("embeddings", "two.safetensors", {"emb_params": trained})
    ((cond, _),) = out("CLIPTextEncode", text=text, clip=clip)
    comma = [267] if "," in text else []
    start = vectors(witness, [RED, *trained, *comma, HOUSE])
    assert close(cond, normed(witness, hidden_states(witness, start)[-1]))


def test_embeddings_with_weights(app: App, out: Out, clip: Any, witness: CLIPTextModel) -> None:
    """Both vectors move away from what an empty prompt has in their places."""
    trained = torch.randn(2, 64)
    folder = app.folders.paths("embeddings")[0] / "sub"
    folder.mkdir(parents=True)
    torch.save({"string_to_param": {"*": trained}, "name": "two", "step": 7}, folder / "two.pt")
    ((cond, _),) = out("CLIPTextEncode", text="(embedding:sub/two:1.3) house", clip=clip)
    full = normed(witness, hidden_states(witness, vectors(witness, [*trained, HOUSE]))[-1])
    empty = normed(witness, hidden_states(witness, vectors(witness, []))[-1])
    expected = full.clone()
    expected[:, 1:3] = empty[:, 1:3] + 1.3 * (full - empty)[:, 1:3]
    assert close(cond, expected)


def test_one_file_for_two_text_encoders(
    out: Out, put: Callable[..., str], states: Callable[[str], File]
) -> None:
    """Each takes its own vectors; the other's prompt has as many places as its own vectors need."""
    small, large = torch.randn(1, 64), torch.randn(3, 64)
    put("embeddings", "both.safetensors", {"clip_l": small, "clip_g": large})
    name = put("checkpoints", "xl.safetensors", states("sdxl"))
    clip = out("CheckpointLoaderSimple", ckpt_name=name)[1]
    tokens = clip.tokenize("red embedding:both house")
    assert torch.equal(tokens["l"][0][2][0], small[0])
    assert [entry[0] for entry in tokens["l"][0][3:5]] == [HOUSE, END]
    for number, vector in enumerate(large):
        assert torch.equal(tokens["g"][0][2 + number][0], vector)
    assert [entry[0] for entry in tokens["g"][0][5:8]] == [HOUSE, END, 0]


@pytest.mark.parametrize(
    "text", ["embedding:", "embedding: house", "embedding:none house", "(:1.2)", "()", "\U0001f600 \u4f60"]
)
def test_odd_prompts(out: Out, clip: Any, text: str) -> None:
    ((cond, _),) = out("CLIPTextEncode", text=text, clip=clip)
    assert cond.shape == (1, 77, 64)
    assert cond.isfinite().all()


def sinusoids(*numbers: float) -> Tensor:
    """256 for each number (Vaswani et al. 2017): cosines, then sines, of periods up to 10000."""
    angles = [[n * math.exp(-math.log(10000) * i / 128) for i in range(128)] for n in numbers]
    return torch.tensor([[*map(math.cos, line), *map(math.sin, line)] for line in angles]).flatten()[None]


def vector_of(model: Any, cond: Any, **more: Any) -> Tensor:
    """What the UNet is given beside text, for an entry of a conditioning."""
    values = {**cond[0][1], "device": torch.device("cpu"), **more}
    return model.model.encode_adm(**values)


def test_sizes_of_sdxl(out: Out, put: Callable[..., str], states: Callable[[str], File]) -> None:
    name = put("checkpoints", "xl.safetensors", states("sdxl"))
    model, clip, _ = out("CheckpointLoaderSimple", ckpt_name=name)
    sizes = {
        "width": 640, "height": 512, "crop_w": 3, "crop_h": 5, "target_width": 700, "target_height": 800
    }  # fmt: skip
    cond = out("CLIPTextEncodeSDXL", clip=clip, text_g="a long text " * 40, text_l="red house", **sizes)
    assert cond[0][0].shape == (1, 2 * 77, 128), "the shorter prompt is filled up with an empty one"
    short = out("CLIPTextEncode", text="red house", clip=clip)
    assert close(cond[0][0][:, :77, :64], short[0][0][:, :, :64])
    vector = vector_of(model, cond)
    pooled = cond[0][1]["pooled_output"]
    assert close(vector, torch.cat([pooled, sinusoids(512, 640, 5, 3, 800, 700)], dim=1))
    plain = vector_of(model, short, width=96, height=64)
    assert close(plain[:, pooled.shape[1] :], sinusoids(64, 96, 0, 0, 64, 96))


def test_sizes_of_the_refiner(out: Out, put: Callable[..., str], states: Callable[[str], File]) -> None:
    name = put("checkpoints", "refiner.safetensors", states("sdxl_refiner"))
    model, clip, _ = out("CheckpointLoaderSimple", ckpt_name=name)
    cond = out("CLIPTextEncodeSDXLRefiner", clip=clip, ascore=4.5, width=640, height=512, text="red house")
    pooled = cond[0][1]["pooled_output"]
    assert close(vector_of(model, cond), torch.cat([pooled, sinusoids(512, 640, 0, 0, 4.5)], dim=1))
    plain = out("CLIPTextEncode", text="red house", clip=clip)
    for kind, score in (("positive", 6), ("negative", 2.5)):
        vector = vector_of(model, plain, prompt_type=kind, width=96, height=64)
        assert close(vector[:, pooled.shape[1] :], sinusoids(64, 96, 0, 0, score))
