"""The settings section `metadata`: what saved files say about their making."""

from __future__ import annotations

from typing import Annotated

from comfyk.settings import Option
from pydantic import BaseModel, ConfigDict, Field

from comfyk_core_nodes.app_settings import app_settings

SECTION = "metadata"


class MetadataSettings(BaseModel):
    """What saved files say about their making."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    disable: Annotated[bool, Option("--disable-metadata")] = Field(
        default=False,
        description="Do not write the prompt and the workflow into saved files.",
    )


_DEFAULTS = MetadataSettings()


def metadata_settings() -> MetadataSettings:
    """The section of the app that runs this code; the defaults outside of an app."""
    return app_settings(SECTION, _DEFAULTS)
