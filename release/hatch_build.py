"""What the distribution `comfyk` depends on: its rooms, each in the version that it has itself."""

from __future__ import annotations

from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Rooms(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        metadata["dependencies"] = [f"{room}=={metadata['version']}" for room in self.config["rooms"]]
