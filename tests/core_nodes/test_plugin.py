"""The hooks: jobs through a running app, memory, devices, and when torch is imported."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from typing import Any, ClassVar

import comfyk_core_nodes.plugin
import psutil
import pytest
import torch
from comfyk import io
from comfyk.app import App
from comfyk.jobs.model import JobStatus
from comfyk_core_nodes import warm_up as warming
from PIL import Image


def prompt(**nodes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {node_id: {"class_type": name, "inputs": inputs} for node_id, (name, inputs) in nodes.items()}


async def test_a_job_from_picture_to_picture(app: App) -> None:
    Image.new("RGBA", (8, 4), (255, 0, 0, 128)).save(app.folders.input / "a.png")
    graph = prompt(
        load=("LoadImage", {"image": "a.png"}),
        scale=(
            "ImageScale",
            {"image": ["load", 0], "upscale_method": "area", "width": 4, "height": 0, "crop": "disabled"},
        ),
        save=("SaveImage", {"images": ["scale", 0], "filename_prefix": "%scale.width%/%LoadImage.image%"}),
        text=("PreviewAny", {"source": ["load", 1]}),
    )
    async with app:
        submission = await app.jobs.submit(graph, extra_data={"extra_pnginfo": {"workflow": {"id": "w"}}})
        outcome = await app.jobs.wait(submission.job.id)
    assert outcome.status is JobStatus.COMPLETED, outcome.error
    assert outcome.outputs["save"]["images"] == [
        {"filename": "a.png_00001_.png", "subfolder": "4", "type": "output"}
    ]
    assert outcome.outputs["text"]["text"][0].startswith("tensor(")
    with Image.open(app.folders.output / "4" / "a.png_00001_.png") as picture:
        assert picture.size == (4, 2)
        assert picture.getpixel((0, 0)) == (255, 0, 0)
        assert '"id": "w"' in picture.info["workflow"]


async def test_a_wrong_file_name_is_refused_before_it_is_queued(app: App) -> None:
    from comfyk.graph.validation import PromptError

    graph = prompt(load=("LoadImage", {"image": "gone.png"}), show=("PreviewImage", {"images": ["load", 0]}))
    async with app:
        with pytest.raises(PromptError) as caught:
            await app.jobs.submit(graph)
    assert "Invalid image file: gone.png" in str(vars(caught.value))


class NamesAPicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="NamesAPicture", outputs=[io.Combo.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput("a.png")


async def test_a_file_name_may_come_over_a_link(app: App) -> None:
    Image.new("L", (8, 4), 51).save(app.folders.input / "a.png")
    app.nodes.add(NamesAPicture)
    graph = prompt(
        name=("NamesAPicture", {}),
        load=("LoadImageMask", {"image": ["name", 0], "channel": "red"}),
        show=("PreviewAny", {"source": ["load", 0]}),
    )
    async with app:
        for value in (51, 102):
            Image.new("L", (1, 1), value).save(app.folders.input / "a.png")
            submission = await app.jobs.submit(graph)
            outcome = await app.jobs.wait(submission.job.id)
            assert outcome.outputs["show"]["text"] == [f"tensor([[[{value / 255:.4f}]]])"]


class Modes(io.ComfyNode):
    """Says whether it runs in inference mode, before and after an await."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="Modes", is_output_node=True)

    @classmethod
    async def execute(cls) -> io.NodeOutput:
        import asyncio

        before = torch.is_inference_mode_enabled()
        await asyncio.sleep(0)
        return io.NodeOutput(ui={"modes": [before, torch.is_inference_mode_enabled()]})


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


async def test_jobs_run_in_inference_mode(app: App) -> None:
    app.nodes.add(Modes)
    async with app:
        submission = await app.jobs.submit(prompt(a=("Modes", {})))
        outcome = await app.jobs.wait(submission.job.id)
    assert outcome.outputs["a"]["modes"] == [True, True]
    assert not torch.is_inference_mode_enabled()


async def test_out_of_memory_is_explained_and_the_memory_given_back(app: App) -> None:
    app.nodes.add(Exhausts)
    async with app:
        submission = await app.jobs.submit(prompt(a=("Exhausts", {})))
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


def test_free_memory_collects_cycles() -> None:
    class Loop:
        tensor = None

    loop = Loop()
    loop.__dict__["self"] = loop
    dead = weakref.ref(loop)
    gc.disable()
    try:
        del loop
        freed = comfyk_core_nodes.plugin.comfyk_free_memory(unload_models=False)
    finally:
        gc.enable()
    assert dead() is None
    assert freed["bytes"] >= 0


def test_the_cpu_is_reported_when_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    (device,) = comfyk_core_nodes.plugin.comfyk_device_stats()
    assert (device["name"], device["type"], device["index"]) == ("cpu", "cpu", None)
    assert device["vram_total"] == device["torch_vram_total"] == psutil.virtual_memory().total
    assert 0 < device["vram_free"] <= device["vram_total"]


def test_gpus_are_reported_the_current_one_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "is_initialized": lambda: True,
        "device_count": lambda: 2,
        "current_device": lambda: 1,
        "mem_get_info": lambda index: (600 + index, 1000),
        "memory_reserved": lambda index: 300,
        "memory_stats": lambda index: {"active_bytes.all.current": 100},
        "get_device_name": lambda index: "Card",
        "get_allocator_backend": lambda: "native",
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    first, second = comfyk_core_nodes.plugin.comfyk_device_stats()
    assert (first["index"], second["index"]) == (1, 0)
    assert first == {
        "name": "cuda:1 Card : native",
        "type": "cuda",
        "index": 1,
        "vram_total": 1000,
        "vram_free": 801,
        "torch_vram_total": 300,
        "torch_vram_free": 200,
    }


def test_pytorch_version() -> None:
    assert comfyk_core_nodes.plugin.comfyk_system_stats() == {"pytorch_version": torch.__version__}


async def test_serving_warms_torch_up_on_a_daemon_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    warmed = threading.Event()
    threads: list[threading.Thread] = []

    def warm_up() -> None:
        threads.append(threading.current_thread())
        warmed.set()

    monkeypatch.setattr(warming, "WARM_UP_DELAY_S", 0.01)
    monkeypatch.setattr(warming, "warm_up", warm_up)
    await comfyk_core_nodes.plugin.comfyk_serve()
    assert warmed.wait(10)
    assert threads[0].daemon


def test_torch_counts_as_loaded_only_when_its_import_is_through() -> None:
    code = (
        "import sys, threading, time\n"
        "from comfyk_core_nodes.devices.torch_import import loaded_torch\n"
        "from comfyk_core_nodes.warm_up import warm_up\n"
        "assert loaded_torch() is None\n"
        "thread = threading.Thread(target=warm_up)\n"
        "thread.start()\n"
        "under_way = 0\n"
        "while thread.is_alive():\n"
        "    torch = loaded_torch()\n"
        "    if torch is None: under_way += 'torch' in sys.modules\n"
        "    else: torch.backends.mps.is_available(), torch.OutOfMemoryError\n"
        "    time.sleep(0.001)\n"
        "assert under_way and loaded_torch() is sys.modules['torch']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
