"""What makes random weights of which every layer matters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from ...tiny_models import randomised


@pytest.fixture(scope="session")
def tiny() -> Callable[[nn.Module], nn.Module]:
    return randomised
