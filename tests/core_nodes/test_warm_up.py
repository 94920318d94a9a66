"""The import of torch after the port is open, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

SERVE = """
    import asyncio, sys, threading
    from comfyk.app import App
    from comfyk.plugins import Plugins
    from comfyk.settings import load_settings
    from comfyk_core_nodes import plugin

    plugins = Plugins()
    plugins.register(plugin, "core-nodes")
    app = App(load_settings(plugins), plugins)
    asyncio.run(plugin.comfyk_serve(app))
    assert "torch" not in sys.modules
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "warm-up")
    assert thread.daemon
    thread.join()
"""


def run(code: str) -> str:
    """What the process logs."""
    source = textwrap.dedent(SERVE) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stderr


def test_serving_imports_on_a_daemon_thread_what_the_first_job_needs() -> None:
    logged = run("""
        from comfyk_core_nodes.devices.torch_import import loaded_torch

        assert loaded_torch() is sys.modules["torch"]
        before = set(sys.modules)
        from comfyk_core_nodes.families import checkpoint, registry
        from comfyk_core_nodes.families.sd import detection, models, text_encoders
        from comfyk_core_nodes.sampling import latents
        from comfyk_core_nodes.text.bpe import clip_tokenizer
        from PIL import Image, JpegImagePlugin, PngImagePlugin

        assert set(sys.modules) == before
        assert clip_tokenizer.cache_info().currsize == 1
        assert app in registry._of_apps
    """)
    assert logged == ""


def test_a_torch_that_cannot_be_imported_is_logged_and_nothing_else() -> None:
    code = """
        import logging
        from comfyk_core_nodes.warm_up import warm_up

        for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
            del sys.modules[name]
        sys.modules["torch"] = None
        logging.basicConfig()
        warm_up()
    """
    assert "torch cannot be used" in run(code)
