"""The tables that are printed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Curve, Figure, Result


def show(results: Sequence[Result], console: Console) -> None:
    """Print figures against their goals, then how the curves grow."""
    figures = [result for result in results if isinstance(result, Figure)]
    curves = [result for result in results if isinstance(result, Curve)]
    if figures:
        console.print(_figures(figures))
    if curves:
        console.print(_curves(curves))


def number(value: float) -> str:
    """Three figures, whatever the size."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _figures(figures: Sequence[Figure]) -> Table:
    table = Table(title="comfyk against ComfyUI 0.33")
    for name in ("what", "ComfyUI 0.33", "goal", "comfyk: median (min - max)", "met?"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for figure in figures:
        low, high = min(figure.samples), max(figure.samples)
        found = f"{number(figure.median)} ({number(low)} - {number(high)}) {figure.unit}"
        goal = figure.goal
        if goal is None:
            table.add_row(figure.what, "", "", found, "")
            continue
        wanted = f"{'over' if goal.at_least else 'under'} {goal.limit:g} {figure.unit}"
        met = "[green]yes[/]" if goal.met(figure.median) else "[red]no[/]"
        table.add_row(figure.what, goal.comfyui, wanted, found, met)
    return table


def _curves(curves: Sequence[Curve]) -> Table:
    sizes = sorted({size for curve in curves for size in curve.samples})
    table = Table(
        title="How the cost grows: median ms, and microseconds per item",
        caption="Exponents between neighbouring sizes: 1 is linear, 0 does not grow.",
    )
    table.add_column("what")
    for size in sizes:
        table.add_column(f"{size:,}", justify="right")
    table.add_column("exponents", justify="right")
    for curve in curves:
        cells = [_cell(curve, size) if size in curve.samples else "" for size in sizes]
        table.add_row(curve.what, *cells, " ".join(f"{exponent:.2f}" for exponent in curve.exponents()))
    return table


def _cell(curve: Curve, size: int) -> str:
    found = curve.median(size)
    return f"{number(found)} ms\n{number(found * 1000 / size)} µs/{curve.per}"
