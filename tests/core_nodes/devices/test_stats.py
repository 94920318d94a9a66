"""The devices as clients see them."""

from __future__ import annotations

import comfyk_core_nodes.plugin
import psutil
import pytest
import torch


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
