"""Whether torch is there, without importing it."""

from __future__ import annotations

import subprocess
import sys

import comfyk_core_nodes.plugin
import torch


def test_pytorch_version() -> None:
    assert comfyk_core_nodes.plugin.comfyk_system_stats() == {"pytorch_version": torch.__version__}


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
