"""Nodes to build prompts from. Each is a V1 class, so that any value may flow between them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import ClassVar

import pytest
from comfyk import check_interrupted, progress
from comfyk.graph.builder import GraphBuilder
from comfyk.io import ExecutionBlocker

ANY = ("*",)


class Num:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("INT", {"default": 0})}})
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    def run(self, value):
        return (value,)


class Add:
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"a": ("INT",)}, "optional": {"b": ("INT",), "c": ("INT",)}}
    )
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    def run(self, a, b=0, c=0):
        return (a + b + c,)


class Show:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"x": ANY}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, x):
        return {"ui": {"text": [x]}}


class Range:
    """A list of numbers, each an item of its own."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"n": ("INT",)}})
    RETURN_TYPES = ("INT", "STRING")
    OUTPUT_IS_LIST = (True, False)
    FUNCTION = "run"

    def run(self, n):
        return list(range(n)), f"{n} numbers"


class Sum:
    """Takes whole lists."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"x": ("INT",)}, "hidden": {"id": "UNIQUE_ID"}})
    RETURN_TYPES = ("INT",)
    INPUT_IS_LIST = True
    FUNCTION = "run"

    def run(self, x, id):
        assert isinstance(id, list)
        return (sum(x),)


class Switch:
    INPUT_TYPES = classmethod(
        lambda cls: {
            "required": {"which": ("BOOLEAN",)},
            "optional": {"on": ("*", {"lazy": True}), "off": ("*", {"lazy": True})},
        }
    )
    RETURN_TYPES = ("*",)
    FUNCTION = "run"

    def check_lazy_status(self, which, on=None, off=None):
        return ["on" if which else "off"]

    def run(self, which, on=None, off=None):
        return (on if which else off,)


class Block:
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"x": ANY, "block": ("BOOLEAN",)}, "optional": {"message": ("STRING",)}}
    )
    RETURN_TYPES = ("*", "INT")
    FUNCTION = "run"

    def run(self, x, block, message=None):
        return (ExecutionBlocker(message) if block else x, 7)


class BlockAll(Block):
    def run(self, x, block, message=None):
        return ExecutionBlocker(message)


class Fail:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"x": ANY}})
    RETURN_TYPES = ("*",)
    FUNCTION = "run"

    def run(self, x):
        raise ValueError(f"cannot work with {x}")


class Exit(Fail):
    def run(self, x):
        raise SystemExit(3)


class AddMany:
    """Expands to a chain of n Adds."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"x": ("INT",), "n": ("INT",)}})
    RETURN_TYPES = ("INT", "INT")
    FUNCTION = "run"

    def run(self, x, n):
        graph = GraphBuilder()
        node = graph.node("Num", value=x)
        for _ in range(n):
            node = graph.node("Add", a=node.out(0), b=1)
        return {"result": (node.out(0), 42), "expand": graph.finalize()}


class Nested(AddMany):
    """Expands to an AddMany and shows what comes out."""

    def run(self, x, n):
        graph = GraphBuilder()
        inner = graph.node("AddMany", x=x, n=n)
        graph.node("Show", x=inner.out(0))
        return {"result": (inner.out(0), inner.out(1)), "expand": graph.finalize()}


class BadExpansion(AddMany):
    def run(self, x, n):
        return {"result": (["new", 0], 0), "expand": {"new": {"class_type": "Nowhere", "inputs": {}}}}


class CycleExpansion(AddMany):
    def run(self, x, n):
        nodes = {
            "c1": {"class_type": "Add", "inputs": {"a": ["c2", 0]}},
            "c2": {"class_type": "Add", "inputs": {"a": ["c1", 0]}},
        }
        return {"result": (["c1", 0], 0), "expand": nodes}


class Changing:
    """Has a fingerprint that the test sets."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"x": ("INT",)}})
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    fingerprint: object = "same"

    @classmethod
    def IS_CHANGED(cls, x):
        if isinstance(cls.fingerprint, Exception):
            raise cls.fingerprint
        return cls.fingerprint

    def run(self, x):
        return (x,)


class Unidentical(Num):
    NOT_IDEMPOTENT = True


class Counter(Num):
    """Counts how often this object was called."""

    def __init__(self):
        self.calls = 0

    def run(self, value):
        self.calls += 1
        return (self.calls,)


class Intermediate(Num):
    HAS_INTERMEDIATE_OUTPUT = True

    def run(self, value):
        return {"ui": {"seen": [value]}, "result": (value,)}


class Steps:
    """A long node that reports progress until it is interrupted or told to go on."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"steps": ("INT",)}})
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    def run(self, steps):
        for step in range(steps):
            progress(step + 1, steps)
        return (steps,)


class Endless(Steps):
    def run(self, steps):
        progress(1, 2)
        while True:
            check_interrupted()


class Meet:
    """Async: returns only when two of these are under way at once."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"x": ("INT",)}})
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    present: ClassVar[set] = set()
    met: asyncio.Event

    async def run(self, x):
        if not Meet.present:
            Meet.met = asyncio.Event()
        Meet.present.add(x)
        if len(Meet.present) == 2:
            Meet.met.set()
        await Meet.met.wait()
        return (x,)


class Forever:
    """Async: never returns."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"x": ("INT",)}})
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    cancelled = False

    async def run(self, x):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            Forever.cancelled = True
            raise
        return (x,)


class AsyncFail(Forever):
    async def run(self, x):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        raise RuntimeError("async trouble")


class RawLink:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"x": ("INT", {"rawLink": True})}})
    RETURN_TYPES = ("*",)
    FUNCTION = "run"

    def run(self, x):
        return (str(x),)


class Hidden:
    INPUT_TYPES = classmethod(
        lambda cls: {
            "required": {},
            "hidden": {
                "unique_id": "UNIQUE_ID",
                "prompt": "PROMPT",
                "dynprompt": "DYNPROMPT",
                "info": "EXTRA_PNGINFO",
                "token": "AUTH_TOKEN_COMFY_ORG",
            },
        }
    )
    RETURN_TYPES = ("*",)
    FUNCTION = "run"

    def run(self, unique_id, prompt, dynprompt, info, token):
        return ([unique_id, sorted(prompt), dynprompt.get_node(unique_id)["class_type"], info, token],)


CLASSES = [
    Num, Add, Show, Range, Sum, Switch, Block, BlockAll, Fail, Exit, AddMany, Nested, BadExpansion, CycleExpansion,
    Changing, Unidentical, Counter, Intermediate, Steps, Endless, Meet, Forever, AsyncFail, RawLink, Hidden,
]  # fmt: skip


def node(class_type, /, **inputs):
    return {"class_type": class_type, "inputs": inputs}


@pytest.fixture
def n():
    """`n.node("Add", a=["1", 0])` writes a node; `n.Forever` and so on are the classes."""
    Meet.present = set()
    Forever.cancelled = False
    Changing.fingerprint = "same"
    return SimpleNamespace(node=node, CLASSES=CLASSES, **{cls.__name__: cls for cls in CLASSES})


@pytest.fixture
async def k(kernel, n):
    """A running kernel with all these nodes."""
    return await kernel(*CLASSES, cache="classic")
