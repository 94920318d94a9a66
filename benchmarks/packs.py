"""The node packs that the benchmarks put into a server, and the prompts made of their nodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

Prompt = dict[str, dict[str, Any]]

CHEAP = '''\
"""Nodes that cost next to nothing, so that what is measured is the server."""


class BenchInt:
    CATEGORY = "bench"
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"default": 0, "min": 0, "max": 2**31})}}

    def run(self, value):
        return (value,)


class BenchAdd:
    CATEGORY = "bench"
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"forceInput": True}), "plus": ("INT", {"default": 1})}}

    def run(self, value, plus):
        return (value + plus,)


class BenchShow:
    CATEGORY = "bench"
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"forceInput": True})}}

    def run(self, value):
        return {"ui": {"text": [str(value)]}}


NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in (BenchInt, BenchAdd, BenchShow)}
'''

PICTURE: Prompt = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}
"""A prompt that needs torch."""

_TYPED = '''\
"""Many typed nodes, with as many inputs as real ones have on average, and a description to fill them up."""

from comfyk import io

DESCRIPTION = "x" * {padding}
MODES = {options}("nearest-exact bilinear area bicubic lanczos".split())


def node(number):
    class Typed(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(
                node_id=f"BenchTyped{{number:04}}",
                display_name=f"Bench Typed {{number:04}}",
                category="bench/typed",
                description=DESCRIPTION,
                inputs=[
                    io.Model.Input("model"),
                    io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
                    io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.01),
                    io.Combo.Input("mode", options=MODES),
                    io.Latent.Input("latent_image", optional=True),
                ],
                outputs=[io.Model.Output(), io.Latent.Output()],
            )

        @classmethod
        def execute(cls, **inputs):
            return io.NodeOutput(inputs["model"], inputs.get("latent_image"))

    return Typed


class Extension(io.ComfyExtension):
    async def get_node_list(self):
        return [node(number) for number in range({count})]


async def comfy_entrypoint():
    return Extension()
'''


def typed(count: int, padding: int, *, options: Literal["tuple", "list"] = "tuple") -> str:
    """The source of a pack of `count` typed nodes, each with a description of `padding` bytes.

    The choices of a combo in a tuple are constant, as those of the core nodes are; a list may have been read from
    a folder, so the server looks at the schema again on each request.
    """
    return _TYPED.format(count=count, padding=padding, options=options)


def write_packs(base: Path, packs: Mapping[str, str]) -> None:
    """Write packs (name -> source) into the `custom_nodes` of a base directory."""
    directory = base / "custom_nodes"
    directory.mkdir(exist_ok=True)
    for name, source in packs.items():
        (directory / f"{name}.py").write_text(source, encoding="utf-8")


def chain(nodes: int, value: int) -> Prompt:
    """A prompt of `nodes` nodes in a row (at least 2): a number, additions, an output."""
    prompt: Prompt = {"1": {"class_type": "BenchInt", "inputs": {"value": value}}}
    for number in range(2, nodes):
        inputs = {"value": [str(number - 1), 0], "plus": 1}
        prompt[str(number)] = {"class_type": "BenchAdd", "inputs": inputs}
    prompt[str(nodes)] = {"class_type": "BenchShow", "inputs": {"value": [str(nodes - 1), 0]}}
    return prompt


def wide(nodes: int, value: int) -> Prompt:
    """A prompt of `nodes` nodes, all but the first of which link to the first; every second one is an output.

    The additions lead nowhere but to the output beside them.
    """
    prompt: Prompt = {"1": {"class_type": "BenchInt", "inputs": {"value": value}}}
    for number in range(2, nodes, 2):
        inputs = {"value": ["1", 0], "plus": number}
        prompt[str(number)] = {"class_type": "BenchAdd", "inputs": inputs}
        prompt[str(number + 1)] = {"class_type": "BenchShow", "inputs": {"value": [str(number), 0]}}
    if len(prompt) < nodes:
        prompt[str(nodes)] = {"class_type": "BenchShow", "inputs": {"value": ["1", 0]}}
    return prompt
