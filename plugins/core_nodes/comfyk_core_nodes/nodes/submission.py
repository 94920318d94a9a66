"""What is done with a prompt before its nodes are checked: what old ones lack is filled in, what is bad refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comfyk import io
from comfyk.graph import PromptError

from comfyk_core_nodes.nodes import NODES

if TYPE_CHECKING:
    from comfyk import App
    from comfyk.nodes import NodeDef

_ours: frozenset[type] = frozenset(NODES)
_defaults: dict[type, dict[str, Any]] = {}
"""Of the classes whose inputs are always the same: the required inputs, and their default or None."""


def prepare(app: App, prompt: Mapping[str, Any], extra_data: Mapping[str, Any]) -> None:
    """Fill in defaults, in place, and look at what goes into pictures. Raises PromptError."""
    carries_workflow = False
    for node in prompt.values():
        class_type = node.get("class_type")
        definition = app.nodes.get(class_type) if isinstance(class_type, str) else None
        if definition is None or definition.cls not in _ours:
            continue
        _fill_in(definition, node["inputs"])
        carries_workflow = carries_workflow or _takes_workflow(definition.cls)
    if carries_workflow:
        _check_workflow(extra_data.get("extra_pnginfo"))


def _fill_in(definition: NodeDef, inputs: dict[str, Any]) -> None:
    """Give required inputs that the prompt lacks their default.

    A node gets inputs with the years, and prompts of before do not have them. ComfyUI refuses those; its web UI fills
    in defaults when it loads a workflow.
    """
    defaults = _defaults.get(definition.cls)
    if defaults is None:
        found = definition.live_inputs(inputs).specs.values()
        defaults = {spec.name: spec.options.get("default") for spec in found if spec.required}
        if not any(isinstance(each, io.DynamicInput) for each in definition.cls.GET_SCHEMA().inputs):
            _defaults[definition.cls] = defaults
    for name, default in defaults.items():
        if name not in inputs and default is not None:
            inputs[name] = copy.copy(default)


def _takes_workflow(node: type[io.ComfyNode]) -> bool:
    return io.Hidden.extra_pnginfo in node.GET_SCHEMA().hidden


def _check_workflow(extra_pnginfo: Any) -> None:
    if extra_pnginfo is None or isinstance(extra_pnginfo, Mapping):
        return
    kind = type(extra_pnginfo).__name__
    raise PromptError(
        {
            "type": "invalid_extra_pnginfo",
            "message": "extra_data.extra_pnginfo is no object",
            "details": f'it goes into the saved files, as {{"workflow": ...}}; this is of the type {kind}',
            "extra_info": {},
        }
    )
