"""The makers of tiny models for the tests of nodes."""

from __future__ import annotations

from types import ModuleType

import pytest

from .. import tiny_models


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """`tiny.make_checkpoint`, `tiny.randomised` ..."""
    return tiny_models
