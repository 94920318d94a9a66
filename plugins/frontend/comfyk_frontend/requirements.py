"""What a workflow needs to run, and what of it is not here.

A workflow is read as the one that becomes a prompt (`comfyk.workflows`): subgraphs are looked into, and what is muted
or only for show does not count. It is taken to run when

- each of its nodes is registered,
- each choice it makes is one that the node offers (a sampler, a type of text encoder), but for names of files,
- each checkpoint and diffusion model it names is called as the files of a known family are.

What it cannot tell: whether a LoRA, a ControlNet or a text encoder suits the model, and whether a file is what it is
called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from comfyk.workflows import UI_NODES, WorkflowError, to_prompt

Entry = Mapping[str, Any]
"""A node in `object_info`."""

_MODEL_INPUTS = {"ckpt_name": "checkpoints", "unet_name": "diffusion_models"}
_MODEL_FOLDERS = ("checkpoints", "diffusion_models", "unet")
_FILE = re.compile(r"\.\w{2,11}( \[\w+\])?$")
_MUTED = (2, 4)


@dataclass(frozen=True, slots=True)
class Model:
    """A model file that a workflow names, and where it can be had, if it says so."""

    folder: str
    name: str
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What there is to run workflows with."""

    nodes: Mapping[str, Entry]
    """By class."""
    model_files: tuple[str, ...]
    """Patterns of the names of diffusion models, in lower case."""


def what_is_missing(workflow: Any, known: Known) -> str | None:
    """What stands in the way of running it, as the end of a sentence; None: nothing that could be told."""
    try:
        prompt = to_prompt(workflow, _schemas(known))
    except WorkflowError as error:
        return f"a form that can be run: {error}"
    if not prompt:
        return "nodes that run: it has none"
    classes = {node["class_type"] for node in prompt.values()}
    if missing := sorted(classes - known.nodes.keys()):
        return f"{_listed('node', missing)}, which {'are' if len(missing) > 1 else 'is'} not here"
    for node in prompt.values():
        for name, value in _not_offered(node, known.nodes[node["class_type"]]):
            return f"{node['class_type']} to offer {value!r} as its {name}"
    models = {model.name for model in models_of(workflow) if model.folder in _MODEL_FOLDERS}
    models |= {
        value
        for node in prompt.values()
        for name, value in node["inputs"].items()
        if name in _MODEL_INPUTS and isinstance(value, str)
    }
    if unknown := sorted(name for name in models if not _is_known(name, known.model_files)):
        return f"{_listed('model', unknown)}, of a family that is not here"
    return None


def models_of(workflow: Any) -> list[Model]:
    """The model files that the nodes of a workflow say they need; each once."""
    graphs = [workflow, *_items(workflow.get("definitions"), "subgraphs")]
    found: dict[tuple[str, str], Model] = {}
    for node in (node for graph in graphs for node in _items(graph, "nodes")):
        if node.get("mode") in _MUTED:
            continue
        for model in _items(node.get("properties"), "models"):
            folder, name, url = (model.get(key) for key in ("directory", "name", "url"))
            if isinstance(folder, str) and isinstance(name, str):
                found[folder, name] = Model(folder, name, url if isinstance(url, str) else None)
    return list(found.values())


def _schemas(known: Known) -> Callable[[str], Any]:
    """A node that is not here counts as one without inputs, so that it is in the prompt and can be missed."""

    def inputs(name: str) -> Any:
        if name in known.nodes:
            return known.nodes[name].get("input") or {}
        return None if name in UI_NODES else {}

    return inputs


def _not_offered(node: Mapping[str, Any], entry: Entry) -> Iterator[tuple[str, str]]:
    inputs = entry.get("input") or {}
    specs = {**(inputs.get("required") or {}), **(inputs.get("optional") or {})}
    for name, value in node["inputs"].items():
        choices = _choices(specs.get(name))
        if choices and isinstance(value, str) and value not in choices and not _FILE.search(value):
            yield name, value


def _choices(spec: Any) -> list[Any]:
    """What a combo offers, by either way of writing one."""
    if not isinstance(spec, list) or not spec:
        return []
    kind, *rest = spec
    if isinstance(kind, list):
        return kind
    options = rest[0].get("options") if rest and isinstance(rest[0], dict) else None
    return options if kind == "COMBO" and isinstance(options, list) else []


def _is_known(name: str, patterns: tuple[str, ...]) -> bool:
    name = re.split(r"[/\\]", name)[-1].lower()
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _listed(noun: str, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"the {noun}{'s' if len(names) > 1 else ''} {shown}"


def _items(holder: Any, key: str) -> list[Mapping[str, Any]]:
    items = holder.get(key) if isinstance(holder, Mapping) else None
    return [one for one in items if isinstance(one, Mapping)] if isinstance(items, list) else []
