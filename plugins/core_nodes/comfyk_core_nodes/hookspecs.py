"""The hooks that the core nodes have for other plugins; see `comfyk.hookspecs` for what holds for all hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import hookspec

if TYPE_CHECKING:
    from comfyk import App

    from comfyk_core_nodes.families.registry import Families


@hookspec
def comfyk_register_model_families(app: App, families: Families) -> None:
    """Add families of diffusion models with `families.add(Family(...))`; `docs/families.md` shows how.

    When: a moment after the server listens, or when a model is loaded for the first time, whichever comes first. Once
        for an app.
    Thread: any.
    May: not import torch: a family's functions do, when a file of it is loaded.
    Return: nothing.
    On error: recorded; families that were added stay.
    Since: 0.1.
    """
