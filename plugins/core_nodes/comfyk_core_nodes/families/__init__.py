"""Families of diffusion models: what their files are told by, and how each is loaded and run. One folder a family.

Importing this, and the registrations in the folders, imports no torch.
"""

from __future__ import annotations

from comfyk_core_nodes.families.family import Family
from comfyk_core_nodes.families.sd.registrations import FAMILIES as SD

BUILT_IN: tuple[Family, ...] = (*SD,)
"""In the order that they are asked in."""
