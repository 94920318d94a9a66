"""What a benchmark finds: single figures, and curves over growing sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from benchmarks.goals import GOALS, Goal


@dataclass(slots=True)
class Figure:
    """One number, measured several times."""

    name: str
    """Unique; a key of `GOALS` when there is a goal for it."""
    what: str
    unit: str
    """`s`, `ms`, `MB`, `/s` or `%`."""
    samples: list[float]

    @property
    def goal(self) -> Goal | None:
        return GOALS.get(self.name)

    @property
    def median(self) -> float:
        return median(self.samples)

    def as_json(self) -> dict[str, Any]:
        found = {
            "name": self.name,
            "what": self.what,
            "unit": self.unit,
            "median": self.median,
            "min": min(self.samples),
            "max": max(self.samples),
            "samples": self.samples,
        }
        if self.goal is not None:
            found |= {
                "comfyui": self.goal.comfyui,
                "goal": self.goal.limit,
                "met": self.goal.met(self.median),
            }
        return found


@dataclass(slots=True)
class Curve:
    """The time of one thing at growing sizes, in milliseconds."""

    name: str
    what: str
    per: str
    """What the size counts: `node`, `job` ..."""
    samples: dict[int, list[float]] = field(default_factory=dict)
    """Milliseconds by size."""

    def median(self, size: int) -> float:
        return median(self.samples[size])

    def exponents(self) -> list[float]:
        """Between neighbouring sizes the k of `time ~ size ** k`: 1 is linear, 0 does not grow."""
        sizes = sorted(self.samples)
        return [
            math.log(self.median(larger) / self.median(smaller)) / math.log(larger / smaller)
            for smaller, larger in pairwise(sizes)
        ]

    def as_json(self) -> dict[str, Any]:
        points = [
            {"size": size, "median_ms": median(found), "min_ms": min(found), "max_ms": max(found)}
            for size, found in sorted(self.samples.items())
        ]
        return {
            "name": self.name,
            "what": self.what,
            "per": self.per,
            "points": points,
            "exponents": self.exponents(),
        }


Result = Figure | Curve
