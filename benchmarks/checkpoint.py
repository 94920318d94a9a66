"""A picture of 256x256 from an SD 1.5 checkpoint: loading it, a step, and the memory that the job takes.

Loading is measured twice. Most of it is getting the pages for the weights that are computed with, 1.6 GB, and a virtual
machine that gives free memory back to its host pays for each page again: 3 to 13 us instead of 1 to 2. So it is
measured with the memory as it was found, and with memory that was used and freed just before.
"""

from __future__ import annotations

import mmap
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.client import Client, connected
from benchmarks.figures import Figure
from benchmarks.packs import CHEAP, chain, write_packs
from benchmarks.server import serving_from

_FEW, _MANY = 1, 4
"""Steps of the jobs that a step's time is told from."""
_MEMORY = 1.5
"""The memory that the job takes, in sizes of an fp16 file: packed weights, the file itself, and what is computed."""


async def measure(runs: int, file: Path | None) -> list[Figure]:
    """Nothing without a file. The file is read once first, so that it is in the system's cache."""
    if file is None:
        print(
            "checkpoint: skipped; give --checkpoint FILE, such as one that tools/random_checkpoint.py writes "
            "from the manifest of SD 1.5",
            file=sys.stderr,
        )
        return []
    _read(file)
    load: dict[bool, list[float]] = {True: [], False: []}
    steps: list[float] = []
    peaks: list[float] = []
    for at_hand in (True, False) * min(runs, 3):
        with tempfile.TemporaryDirectory(prefix="comfyk-bench-") as directory:
            base = Path(directory)
            write_packs(base, {"bench_cheap": CHEAP})
            folder = base / "models" / "checkpoints"
            folder.mkdir(parents=True)
            (folder / f"model{file.suffix}").symlink_to(file.resolve())
            async with serving_from(base) as server, connected(server) as client:
                await client.run(chain(3, 0))  # torch is imported
                if at_hand:
                    _bring_memory(int(_MEMORY * file.stat().st_size))
                first = await _seconds(client, file, 1, _FEW)
                few = await _seconds(client, file, 2, _FEW)
                many = await _seconds(client, file, 3, _MANY)
                load[at_hand].append(first - few)
                steps.append((many - few) / (_MANY - _FEW))
                peaks.append(server.peak_memory_mb())
    return [
        Figure("checkpoint_step", "SD1.5 256x256, a step with guidance", "s", steps),
        Figure("checkpoint_load", "SD1.5 checkpoint: a first job against a later one", "s", load[False]),
        Figure("checkpoint_load_at_hand", "the same, with memory that was just freed", "s", load[True]),
        Figure("checkpoint_memory", "peak memory of that job", "MB", peaks),
    ]


def _bring_memory(nbytes: int) -> None:
    """Use so much memory and free it again."""
    with mmap.mmap(-1, nbytes) as memory:
        for page in range(0, nbytes, mmap.PAGESIZE):
            memory[page] = 1


def _read(file: Path) -> None:
    with file.open("rb") as stream:
        while stream.read(1 << 24):
            pass


async def _seconds(client: Client, file: Path, seed: int, steps: int) -> float:
    start = time.perf_counter()
    await client.run(_txt2img(f"model{file.suffix}", seed, steps))
    return time.perf_counter() - start


def _txt2img(checkpoint: str, seed: int, steps: int) -> dict[str, Any]:
    """Every job has prompts of its own, so that only the loaded checkpoint is kept from one to the next."""

    def node(name: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": name, "inputs": inputs}

    return {
        "model": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "positive": node("CLIPTextEncode", clip=["model", 1], text=f"a lighthouse, {seed}"),
        "negative": node("CLIPTextEncode", clip=["model", 1], text=f"blurry, {seed}"),
        "empty": node("EmptyLatentImage", width=256, height=256, batch_size=1),
        "sampler": node(
            "KSampler",
            model=["model", 0],
            seed=seed,
            steps=steps,
            cfg=8.0,
            sampler_name="euler",
            scheduler="normal",
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["empty", 0],
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="bench"),
    }
