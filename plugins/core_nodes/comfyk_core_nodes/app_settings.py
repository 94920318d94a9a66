"""The settings of the app that runs this code."""

from __future__ import annotations

from typing import TypeVar

from comfyk import current_app
from pydantic import BaseModel

S = TypeVar("S", bound=BaseModel)


def app_settings(section: str, defaults: S) -> S:
    """A section of the running app; `defaults` outside of an app, and in one that has not got the section."""
    try:
        return current_app().settings.section(section, type(defaults))
    except (RuntimeError, KeyError):
        return defaults
