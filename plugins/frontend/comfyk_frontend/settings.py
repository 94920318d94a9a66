"""The `[frontend]` section of the settings."""

from __future__ import annotations

from typing import Annotated

from comfyk.settings import AbsolutePath, Option, Section
from pydantic import AfterValidator, Field


def _has_a_ui(root: AbsolutePath | None) -> AbsolutePath | None:
    if root is not None and not (root / "index.html").is_file():
        raise ValueError(
            f"{root} has no index.html: name the folder that a build of the web UI was written to"
        )
    return root


class FrontendSettings(Section):
    """The web UI."""

    root: Annotated[
        AbsolutePath | None, AfterValidator(_has_a_ui), Option("--front-end-root", metavar="DIR")
    ] = Field(
        None,
        description="A build of the web UI to serve in place of the installed one.",
    )
