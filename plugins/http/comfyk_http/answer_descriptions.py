"""Short ways to describe the answers of this plugin's routes."""

from __future__ import annotations

from typing import Any

from comfyk.api import Answer


def gives(description: str, model: Any) -> Answer:
    """JSON; `model` is a type, or the name of one in `comfyk_http.schemas`."""
    return Answer(description, f"comfyk_http.schemas:{model}" if isinstance(model, str) else model)


def sends(description: str, *content: str) -> Answer:
    """A file of one of these content types."""
    return Answer(description, bytes, content)


def done(description: str) -> Answer:
    """Nothing but the status."""
    return Answer(description)
