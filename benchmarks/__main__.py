"""`python -m benchmarks [NAME ...] [--runs N] [--json FILE]`."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import (
    chain,
    checkpoint,
    clients,
    growth,
    history,
    http,
    object_info,
    roundtrip,
    sampler_overhead,
    start,
    throughput,
)
from benchmarks.figures import Curve, Figure, Result
from benchmarks.table import show

BENCHMARKS: dict[str, Callable[[int], Awaitable[Sequence[Result]]]] = {
    "start": start.measure,
    "object_info": object_info.measure,
    "roundtrip": roundtrip.measure,
    "chain": chain.measure,
    "throughput": throughput.measure,
    "history": history.measure,
    "http": http.measure,
    "clients": clients.measure,
    "growth": growth.measure,
    "sampler_overhead": sampler_overhead.measure,
    "checkpoint": partial(checkpoint.measure, file=None),
}

_WIDTH = 130
"""Columns when the output is not a terminal."""


_HELP = f"""Measure comfyk: {", ".join(BENCHMARKS)}.

Without a NAME, all.
"""


@click.command(help=_HELP)
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)), metavar="[NAME]...")
@click.option(
    "--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Times to repeat each."
)
@click.option(
    "--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Also write the figures here."
)
@click.option(
    "--checkpoint",
    "checkpoint_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An SD 1.5 checkpoint for the benchmark of that name.",
)
def main(names: tuple[str, ...], runs: int, file: Path | None, checkpoint_file: Path | None) -> None:
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    errors = Console(stderr=True)
    results: list[Result] = []
    BENCHMARKS["checkpoint"] = partial(checkpoint.measure, file=checkpoint_file)
    for name in names or BENCHMARKS:
        with errors.status(f"measuring {name} ..."):
            results += asyncio.run(_measure(name, runs))
    machine = _machine()
    show(results, console)
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()), style="dim")
    if file is not None:
        file.write_text(json.dumps(_as_json(results, machine), indent=1) + "\n", encoding="utf-8")


async def _measure(name: str, runs: int) -> Sequence[Result]:
    return await BENCHMARKS[name](runs)


def _machine() -> dict[str, Any]:
    found: dict[str, Any] = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if hasattr(os, "getloadavg"):
        found["load"] = " ".join(f"{load:.1f}" for load in os.getloadavg())
    return found


def _as_json(results: Sequence[Result], machine: dict[str, Any]) -> dict[str, Any]:
    return {
        "machine": machine,
        "figures": [result.as_json() for result in results if isinstance(result, Figure)],
        "growth": [result.as_json() for result in results if isinstance(result, Curve)],
    }


if __name__ == "__main__":
    main()
