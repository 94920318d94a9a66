"""What a node shows beside its outputs: the files that it saved, text, 3D views.

Each class holds data only; `as_dict` gives the form in which clients and the history get it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from comfyk.io.base import FolderType

__all__ = [
    "PreviewText",
    "PreviewUI3D",
    "PreviewUI3DAdvanced",
    "PreviewVideo",
    "SavedAudios",
    "SavedImages",
    "SavedResult",
    "UIOutput",
]


class UIOutput(ABC):
    """Something that a client shows on a node."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """`{kind: [item, ...]}`; the items of several calls are put into one list."""


class SavedResult(dict[str, Any]):
    """A file that a node wrote: `{"filename", "subfolder", "type"}`, as `/view` takes it."""

    def __init__(self, filename: str, subfolder: str, type: FolderType | str):
        super().__init__(filename=filename, subfolder=subfolder, type=FolderType(type).value)

    @property
    def filename(self) -> str:
        return self["filename"]

    @property
    def subfolder(self) -> str:
        return self["subfolder"]

    @property
    def type(self) -> FolderType:
        return FolderType(self["type"])


class SavedImages(UIOutput):
    def __init__(self, results: Sequence[SavedResult | dict[str, Any]], is_animated: bool = False):
        self.results = list(results)
        self.is_animated = is_animated

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.results} | ({"animated": [True]} if self.is_animated else {})


class SavedAudios(UIOutput):
    def __init__(self, results: Sequence[SavedResult | dict[str, Any]]):
        self.results = list(results)

    def as_dict(self) -> dict[str, Any]:
        return {"audio": self.results}


class PreviewVideo(UIOutput):
    def __init__(self, values: Sequence[SavedResult | dict[str, Any]]):
        self.values = list(values)

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.values, "animated": [True]}


class PreviewText(UIOutput):
    def __init__(self, value: str):
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        return {"text": [self.value]}


class PreviewUI3D(UIOutput):
    """A model in the 3D viewer; `bg_image_path` is a picture behind it, such as `temp/name.png`."""

    def __init__(self, model_file: str, camera_info: dict[str, Any] | None, bg_image_path: str | None = None):
        self.model_file = model_file
        self.camera_info = camera_info
        self.bg_image_path = bg_image_path

    def as_dict(self) -> dict[str, Any]:
        return {"result": [self.model_file, self.camera_info, self.bg_image_path]}


class PreviewUI3DAdvanced(UIOutput):
    """A model in the 3D viewer, with where each part of it stands."""

    def __init__(self, model_file: str, camera_info: dict[str, Any] | None, model_3d_info: list[Any] | None):
        self.model_file = model_file
        self.camera_info = camera_info
        self.model_3d_info = model_3d_info

    def as_dict(self) -> dict[str, Any]:
        return {"result": [self.model_file, self.camera_info, self.model_3d_info]}
