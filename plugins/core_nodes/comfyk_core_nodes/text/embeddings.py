"""Textual inversion (Gal et al. 2022, arXiv:2208.01618): vectors in a file that stand for words of a prompt."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from comfyk_core_nodes.weights.files import ModelFileError, load_pickle, load_torch_file

log = logging.getLogger(__name__)


def load_embedding(path: Path, width: int, key: str) -> Tensor | None:
    """The vectors `[N, width]` in a file for the text encoder `key` (`clip_l`, `clip_g` ...), or None.

    A file that cannot be read is logged and left out, as a word that nobody trained would be.
    """
    try:
        vectors = _vectors(_read(path), width, key)
    except ModelFileError as error:
        log.warning("the embedding is left out: %s", error)
        return None
    if vectors is None:
        log.warning(
            "the embedding %s is left out: no vectors in it, which are tensors of 1 or 2 dimensions",
            path.name,
        )
        return None
    return vectors.reshape(-1, vectors.shape[-1]).float()


def _read(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        return load_torch_file(path)[0]
    return load_pickle(path, "an embedding of plain tensors")


def _vectors(loaded: Any, width: int, key: str) -> Tensor | None:
    """Whatever wrote it: A1111's `string_to_param`, diffusers' lists, SDXL's file per encoder, or one tensor."""
    if isinstance(loaded, list):
        tensors = [value for item in loaded if isinstance(item, Mapping) for value in item.values()]
        return _joined([t for t in tensors if _is_vectors(t) and t.shape[-1] == width])
    if not isinstance(loaded, Mapping):
        return loaded if _is_vectors(loaded) else None
    if isinstance(loaded.get("string_to_param"), Mapping):
        loaded = loaded["string_to_param"]
    elif key in loaded:
        return loaded[key] if _is_vectors(loaded[key]) else None
    else:
        for ending in (".string_to_param.*", f".{key}"):
            names = [k for k in loaded if str(k).startswith("bundle_emb.") and str(k).endswith(ending)]
            bundled = [loaded[k] for k in names if _is_vectors(loaded[k])]
            if bundled:
                return _joined([t for t in bundled if t.shape[-1] == bundled[0].shape[-1]])
    return next((value for value in loaded.values() if _is_vectors(value)), None)


def _is_vectors(value: Any) -> TypeGuard[Tensor]:
    """Whether this is one vector, or several of the same width."""
    return (
        isinstance(value, Tensor)
        and value.dim() in (1, 2)
        and value.numel() > 0
        and value.is_floating_point()
    )


def _joined(vectors: list[Tensor]) -> Tensor | None:
    """`[N, width]` of tensors of the same width."""
    return torch.cat([t.reshape(-1, t.shape[-1]) for t in vectors]) if vectors else None
