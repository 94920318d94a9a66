"""Model files by the names that workflows carry. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from comfyk import current_app, io

from comfyk_core_nodes.text.embedding_names import named_files
from comfyk_core_nodes.weights.file_identity import fingerprint_of


def model_names(kind: str) -> Callable[[], list[str]]:
    """What a combo of this kind of model offers: asked anew each time somebody looks."""
    return partial(_names, kind)


def _names(kind: str) -> list[str]:
    return current_app().folders.filenames(kind)


def model_path(kind: str, name: str) -> Path:
    """The file of that name. Raises FileNotFoundError that says where it was looked for."""
    folders = current_app().folders
    path = folders.find(kind, name)
    if path is None:
        places = ", ".join(str(place) for place in folders.paths(kind))
        raise FileNotFoundError(f"there is no model {name!r} of the kind {kind!r} in {places}")
    return path


class ModelFileNode(io.ComfyNode):
    """A node whose result hangs on model files: another file under the same name gives another result.

    Which inputs name files is read from the schema: those whose options are `model_names`. A node with others says
    in `model_files` which those are.
    """

    @classmethod
    def model_files(cls, **inputs: Any) -> Iterable[Path]:
        """The files that these inputs name. An input that comes over a link is None."""
        for each in cls.GET_SCHEMA().inputs:
            options = getattr(each, "options", None)
            name = inputs.get(each.id)
            if isinstance(options, partial) and options.func is _names and isinstance(name, str):
                path = current_app().folders.find(options.args[0], name)
                if path is not None:
                    yield path

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> list[Any]:
        return [fingerprint_of(path) for path in cls.model_files(**inputs)]


def embedding_folders() -> list[str]:
    """Where textual inversions are looked for."""
    return [str(path) for path in current_app().folders.paths("embeddings")]


class PromptNode(io.ComfyNode):
    """A node whose result hangs on the textual inversions that its prompts name.

    Of a prompt that comes over a link nothing is known, so it hangs on all that there are.
    """

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> list[Any]:
        folders, directories = current_app().folders, embedding_folders()
        found: list[Any] = []
        for each in cls.GET_SCHEMA().inputs:
            text = inputs.get(each.id, "")
            if not isinstance(each, io.String.Input) or text == "":
                continue
            if text is None:
                found += [
                    fingerprint_of(root / name)
                    for root, names in folders.files("embeddings")
                    for name in names
                ]
            elif isinstance(text, str) and "embedding:" in text:
                for name, path in named_files(text, directories):
                    found.append(name if path is None else fingerprint_of(path))
        return found
