"""The families that are built in: what the `registrations` of each folder beside this file have as `FAMILIES`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from comfyk_core_nodes import families
from comfyk_core_nodes.families.family import Family


@cache
def built_in() -> tuple[Family, ...]:
    """In the order that they are asked in: that of the folders' names, then as each folder has them."""
    folders = sorted(module.name for module in iter_modules(families.__path__) if module.ispkg)
    registrations = (import_module(f"{families.__name__}.{folder}.registrations") for folder in folders)
    return tuple(family for module in registrations for family in module.FAMILIES)
