"""The settings section `previews`: pictures of work under way. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from comfyk.settings import Formerly, Option
from pydantic import BaseModel, ConfigDict, Field

from comfyk_core_nodes.app_settings import app_settings

SECTION = "previews"

PreviewMethod = Literal["none", "auto", "latent2rgb", "taesd"]
PREVIEW_METHODS: tuple[str, ...] = get_args(PreviewMethod)
"""What `previews.method` can be, and `preview_method` in a prompt's `extra_data`."""


class PreviewSettings(BaseModel):
    """How samplers show the picture under way."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    method: Annotated[PreviewMethod, Option("--preview-method"), Formerly("execution.preview_method")] = (
        Field(
            default="none",
            description="How samplers show the picture under way.",
        )
    )
    size: Annotated[int, Option("--preview-size", metavar="PIXELS"), Formerly("execution.preview_size")] = (
        Field(
            default=512,
            ge=16,
            le=8192,
            description="The longer side of such a preview.",
        )
    )


_DEFAULTS = PreviewSettings()


def preview_settings() -> PreviewSettings:
    """The section of the app that runs this code; the defaults outside of an app."""
    return app_settings(SECTION, _DEFAULTS)
