"""Memory that is given back: on demand, and after an error that says that it ran out."""

from __future__ import annotations

import gc
import weakref
from typing import Any, ClassVar

import comfyk_core_nodes.plugin
import pytest
import torch
from comfyk import io
from comfyk.app import App
from comfyk_core_nodes.devices.exhausted import exhausted
from comfyk_core_nodes.memory.manager import load_models_gpu, loaded_models

from .conftest import OwnLayers, build, patcher_of

MB = 1 << 20


class Exhausts(io.ComfyNode):
    """Runs out of memory while it holds a tensor."""

    held: ClassVar[list[weakref.ref[torch.Tensor]]] = []

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="Exhausts", is_output_node=True)

    @classmethod
    def execute(cls) -> io.NodeOutput:
        big = torch.zeros(1000)
        cls.held.append(weakref.ref(big))
        raise torch.OutOfMemoryError(f"tried to allocate more than {big.numel()}")


async def test_out_of_memory_is_explained_and_the_memory_given_back(app: App) -> None:
    app.nodes.add(Exhausts)
    async with app:
        submission = await app.jobs.submit({"a": {"class_type": "Exhausts", "inputs": {}}})
        outcome = await app.jobs.wait(submission.job.id)
    assert outcome.error is not None
    assert "ran out of memory" in outcome.error["exception_message"]
    assert Exhausts.held[-1]() is None


@pytest.mark.parametrize(
    ("error", "advised"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("DefaultCPUAllocator: allocate memory"), False),
    ],
)
def test_advice(error: BaseException, advised: bool) -> None:
    assert (comfyk_core_nodes.plugin.comfyk_node_failed(error) is not None) == advised


def test_asking_whether_memory_ran_out_frees_none() -> None:
    patcher = patcher_of(build(OwnLayers))
    load_models_gpu([patcher])
    held: Any = torch.zeros(1000)
    try:
        raise torch.OutOfMemoryError("CUDA out of memory")
    except torch.OutOfMemoryError as error:
        assert exhausted(error) == "The GPU"
        assert error.__traceback__ is not None
        assert error.__traceback__.tb_frame.f_locals["held"] is held
    assert loaded_models() == [patcher.model]


def test_free_memory_collects_cycles_and_says_what_came_back() -> None:
    class Loop:
        tensor: torch.Tensor

    loop = Loop()
    loop.tensor = torch.ones(256 * MB // 4)
    loop.__dict__["self"] = loop
    dead = weakref.ref(loop)
    gc.disable()
    try:
        del loop
        freed = comfyk_core_nodes.plugin.comfyk_free_memory(unload_models=False)
    finally:
        gc.enable()
    assert dead() is None
    assert freed["models"] == 0
    assert freed["bytes"] > 200 * MB
