"""What is raised for a file of weights that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path


class ModelFileError(ValueError):
    """A file of weights cannot be used. The text says which, what was expected, and what was found."""

    def __init__(self, path: str | os.PathLike[str], expected: str, found: str) -> None:
        self.path = str(path)
        super().__init__(f"{Path(path).name}: expected {expected}, found {found} ({self.path})")
