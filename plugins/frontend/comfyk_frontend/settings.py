"""The `[frontend]` section of the settings."""

from __future__ import annotations

from typing import Annotated, Literal

from comfyk.settings import AbsolutePath, Option, Section
from pydantic import AfterValidator, Field, HttpUrl


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
    templates: Literal["runnable", "all"] = Field(
        "runnable",
        description=(
            "Which of the packaged templates are listed: those whose nodes and model families are here, or all, with a "
            "mark on those that do not run."
        ),
    )
    help_url: HttpUrl | None = Field(
        None, description="Where *Get Help* in the web UI leads, in place of comfyk's own page, `/help`."
    )
    issues_url: HttpUrl | None = Field(
        None,
        description=(
            "Where *Find on GitHub* leads, with what is searched for as `?q=...`; the project's own issues if comfyk "
            "knows them, else the page `/help`."
        ),
    )
    starters: bool = Field(
        True,
        description=(
            "Whether comfyk's own workflows stand first among the templates, and one of them opens in a new browser."
        ),
    )
