"""What glibc keeps of freed memory, and when it goes back to the kernel; in a process of its own."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is left as it is")

MB = 1 << 20


def run(code: str) -> dict[str, int]:
    """The numbers that the code prints as JSON."""
    start = """
        import json, psutil, torch
        from comfyk_core_nodes import job_context
        from comfyk_core_nodes.devices.device import CPU, device_of
        from comfyk_core_nodes.devices.freed import keep_freed_memory

        def resident():
            return psutil.Process().memory_info().rss

        def use():
            # Two, so that what is freed first does not lie at the end of the heap.
            first, second = torch.ones(50 << 20), torch.ones(10 << 20)
            del first
            return second
    """
    source = textwrap.dedent(start) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    seen = run("""
        keep_freed_memory()
        before = resident()
        held = use()
        freed = resident()
        again = torch.ones(45 << 20)
        after = resident()
        del again
        device_of(CPU).empty_cache()
        print(json.dumps({"freed": freed - before, "again": after - freed, "back": resident() - before}))
    """)
    assert seen["freed"] > 200 * MB
    assert seen["again"] < 100 * MB
    assert seen["back"] < 120 * MB


@pytest.mark.parametrize("short", [False, True])
def test_a_job_gives_it_back_at_its_end_unless_it_was_short(short: bool) -> None:
    seen = run(f"""
        job_context.SHORT_JOB_S = {1e9 if short else 0.0}
        keep_freed_memory()
        before = resident()
        with job_context.job_context():
            held = use()
            during = resident()
        print(json.dumps({{"during": during - before, "after": resident() - before}}))
    """)
    assert seen["during"] > 200 * MB
    assert seen["after"] > 200 * MB if short else seen["after"] < 120 * MB
