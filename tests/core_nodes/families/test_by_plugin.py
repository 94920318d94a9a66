"""A plugin adds a family, whose checkpoint then loads and samples by the nodes that all families have."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfyk_core_nodes.plugin
import pytest
import torch
from comfyk.app import App
from comfyk.plugins import Plugins
from comfyk.settings import load_settings
from comfyk_core_nodes.families.lora import apply_lora
from comfyk_core_nodes.families.registry import Families, model_families
from comfyk_core_nodes.families.sd.registrations import FAMILIES, SD1
from comfyk_core_nodes.sampling.noise import prepare_noise
from comfyk_core_nodes.weights.files import ModelFileError

from ...plugins.model_family import comfyk_tiny_flow as tiny_flow
from ..tiny_models import StateDict, make_text, prefixed, randomised

pytestmark = pytest.mark.usefixtures("in_a_job")

WIDTH = 12
CONTEXT = 64


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    plugins = Plugins()
    plugins.register(comfyk_core_nodes.plugin, "core-nodes")
    plugins.register(tiny_flow, "tiny-flow")
    app = App(load_settings(plugins, overrides={"folders.base": tmp_path}), plugins)
    app.folders.create()
    app.register()
    with app.active():
        yield app


@pytest.fixture
def state(app: App) -> StateDict:
    """A checkpoint of the new family: its network, and CLIP-L."""
    sizes = {"channels": 16, "width": WIDTH, "context_dim": CONTEXT}
    config = model_families().config(tiny_flow.TINY_FLOW.layout, sizes, {}, {}, {})
    network = randomised(tiny_flow.model(config, "cpu").diffusion_model)
    state = prefixed("model.diffusion_model.", network.state_dict())
    return state | prefixed("text_encoders.clip_l.", make_text(None).state_dict())


def test_its_checkpoint_loads_and_samples(out: Any, put: Callable[..., str], state: StateDict) -> None:
    model, clip, vae = out("CheckpointLoaderSimple", ckpt_name=put("checkpoints", "a.safetensors", state))
    assert vae is None
    assert model.model.model_config.name == "tiny_flow"
    text = out("CLIPTextEncode", clip=clip, text="a cat")
    latent = out("EmptyLatentImage", width=64, height=32, batch_size=2)
    settings = {
        "seed": 5,
        "steps": 1,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
    }
    made = out("KSampler", model=model, positive=text, negative=text, latent_image=latent, **settings)[
        "samples"
    ]

    # One step along the flow, from noise to the end.
    noise = prepare_noise(torch.zeros(2, 16, 4, 8), 5)
    velocity = model.model.diffusion_model(
        noise, torch.full((2,), 1000.0), context=text[0][0].expand(2, -1, -1)
    )
    torch.testing.assert_close(made, (noise - velocity) / 0.5)


def test_a_file_of_its_network_alone(out: Any, put: Callable[..., str], state: StateDict) -> None:
    before = "model.diffusion_model."
    network = {key.removeprefix(before): value for key, value in state.items() if key.startswith(before)}
    name = put("diffusion_models", "a.safetensors", network)
    model = out("UNETLoader", unet_name=name, weight_dtype="default")
    assert float(model.model.model_sampling.shift) == 2.0
    assert torch.equal(model.model.diffusion_model.read.weight, network["read.weight"])


def test_a_lora_speaks_of_its_layers(out: Any, put: Callable[..., str], state: StateDict) -> None:
    model, _, _ = out("CheckpointLoaderSimple", ckpt_name=put("checkpoints", "a.safetensors", state))
    up, down = torch.randn(WIDTH, 2), torch.randn(2, CONTEXT)
    file = {"lora_unet_text.lora_up.weight": up, "lora_unet_text.lora_down.weight": down}
    patched, _ = apply_lora(model, None, file, 0.5, 0.0)
    key = "diffusion_model.text.weight"
    before, after = (each.model_state_dict_for_saving()[key] for each in (model, patched))
    torch.testing.assert_close(after, before + 0.5 * up @ down)


def test_errors_name_it(out: Any, put: Callable[..., str], state: StateDict) -> None:
    del state["model.diffusion_model.write.bias"]
    with pytest.raises(
        ModelFileError, match=r"expected a checkpoint of Tiny Flow, found 1 weights of the network"
    ):
        out("CheckpointLoaderSimple", ckpt_name=put("checkpoints", "a.safetensors", state))
    with pytest.raises(
        ModelFileError, match=r"a checkpoint of Tiny Flow, or of Stable Diffusion 1\.x, 2\.x or SDXL"
    ):
        out("CheckpointLoaderSimple", ckpt_name=put("checkpoints", "b.safetensors", {"x": torch.zeros(1)}))


def test_the_others_load_as_before(
    out: Any, put: Callable[..., str], states: Callable[[str], StateDict]
) -> None:
    name = put("checkpoints", "sdxl.safetensors", states("sdxl"))
    model, clip, vae = out("CheckpointLoaderSimple", ckpt_name=name)
    assert model.model.model_config.name == "sdxl"
    assert None not in (clip, vae)


def test_a_name_that_is_taken(app: App, caplog: pytest.LogCaptureFixture) -> None:
    class Second:
        comfyk_register_model_families = staticmethod(tiny_flow.comfyk_register_model_families)

    app.plugins.register(Second(), "second")
    with caplog.at_level(logging.ERROR):
        names = [family.name for family in model_families()]
    assert names == ["tiny_flow", *(family.name for family in FAMILIES)]
    assert "there is a family 'tiny_flow' already" in caplog.text


def test_a_family_that_fails_leaves_files_to_the_others(
    out: Any, put: Callable[..., str], states: Callable[[str], StateDict], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(weights: Any) -> Any:
        return weights["what is not there"]

    text = replace(tiny_flow.TINY_FLOW.text, tell=fail)
    layout = replace(tiny_flow.TINY_FLOW.layout, prefix=fail)
    model_families().add(replace(tiny_flow.TINY_FLOW, name="broken", layout=layout, text=text))
    state = states("sd1")
    model, _, _ = out("CheckpointLoaderSimple", ckpt_name=put("checkpoints", "a.safetensors", state))
    assert model.model.model_config.name == "sd1"
    before = "cond_stage_model.transformer."
    encoder = {key.removeprefix(before): value for key, value in state.items() if key.startswith(before)}
    name = put("text_encoders", "a.safetensors", encoder)
    assert out("CLIPLoader", clip_name=name, type="stable_diffusion").cond_stage_model.keys == ("clip_l",)
    assert caplog.text.count("fail of a family of models failed") == 2


def test_later_families_are_asked_first() -> None:
    families = Families([SD1])
    families.add(tiny_flow.TINY_FLOW)
    assert [family.name for family in families] == ["tiny_flow", "sd1"]


def test_outside_of_an_app_there_are_the_built_in_ones() -> None:
    assert tuple(model_families()) == FAMILIES


def test_the_example_of_the_docs_is_this_one() -> None:
    page = Path(__file__).parents[3] / "docs" / "families.md"
    assert f"```python\n{Path(tiny_flow.__file__).read_text()}```" in page.read_text()
