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
