"""An app with the core nodes in a folder of its own, and a way to call one node as the executor does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfyk_core_nodes.plugin
import pytest
import torch
from comfyk.app import App
from comfyk.nodes.definition import NodeResult
from comfyk.plugins import Plugins
from comfyk.settings import load_settings
from comfyk_core_nodes.devices import settings
from comfyk_core_nodes.memory import manager
from safetensors.torch import save_file

from . import tiny_models
from .tiny_models import StateDict

# The models are tiny: threads would only wait for each other, the longer the busier the machine is.
torch.set_num_threads(1)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    plugins = Plugins()
    plugins.register(comfyk_core_nodes.plugin, "core-nodes")
    app = App(load_settings(plugins, overrides={"folders.base": tmp_path}), plugins)
    app.folders.create()
    app.register()
    with app.active():
        yield app


@pytest.fixture
def run(app: App) -> Callable[..., NodeResult]:
    """`run("ImageInvert", image=tensor)`; `prompt` and `extra_pnginfo` are the hidden inputs."""

    def call(name: str, prompt: Any = None, extra_pnginfo: Any = None, **values: Any) -> NodeResult:
        node = app.nodes[name]
        hidden = {"PROMPT": prompt, "EXTRA_PNGINFO": extra_pnginfo}
        live = node.live_inputs(values)
        return node.result(node.call(node.create(), "execute", values, live, hidden))

    return call


@pytest.fixture
def out(run: Callable[..., NodeResult]) -> Callable[..., Any]:
    """As `run`, but gives the outputs: the value itself when there is one."""

    def call(name: str, **values: Any) -> Any:
        outputs = run(name, **values).values
        assert outputs is not None
        return outputs[0] if len(outputs) == 1 else outputs

    return call


@pytest.fixture
def seeded() -> Iterator[None]:
    """Without gradients, and with the same random numbers for each test."""
    torch.manual_seed(7)
    with torch.no_grad():
        yield


@pytest.fixture
def in_a_job() -> Iterator[None]:
    """In inference mode, as jobs are run, and with the same random numbers for each test."""
    torch.manual_seed(7)
    with torch.inference_mode():
        yield


@pytest.fixture
def nothing_loaded() -> Iterator[None]:
    """No model is on a device, before and after."""
    manager.unload_all_models()
    yield
    manager.unload_all_models()


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`use(mmap=False)`: the settings of the section `device`."""

    def change(**values: Any) -> None:
        monkeypatch.setattr(settings, "_DEFAULTS", settings.DeviceSettings(**values))

    return change


@pytest.fixture
def checkpoint_state() -> Callable[..., StateDict]:
    """`checkpoint_state("sd1")`: a single-file checkpoint of a family, some kB in size."""
    return tiny_models.make_checkpoint


@pytest.fixture(scope="session")
def states() -> Callable[[str], StateDict]:
    """`states("sd1")`: the same checkpoint of a family each time."""
    made: dict[str, StateDict] = {}

    def state(family: str) -> StateDict:
        if family not in made:
            torch.manual_seed(3)
            with torch.no_grad():
                made[family] = tiny_models.make_checkpoint(family)
        return made[family]

    return state


@pytest.fixture
def put(app: App) -> Callable[..., str]:
    """`put("loras", "a.safetensors", state)`: the name, for a node."""

    def write(kind: str, name: str, state: StateDict) -> str:
        path = app.folders.paths(kind)[0] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {key: value.detach().clone().contiguous() for key, value in state.items()}
        if path.suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save(state, path)
        return name

    return write
