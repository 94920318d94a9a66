"""`embedding:NAME` in a prompt: where one begins, where its name ends, and which file that is. No torch here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".safetensors", ".pt", ".bin")

_MARK = re.compile(r"(?<![\w/\\-])embedding:")
_NAME = re.compile(r"[^\s<\[]*")
_WORD_ENDS = re.compile(r"[,;:!?(){}|\]>\"'*~]|\.+(?!\w)")
"""Punctuation that a name may end before. What is in the middle of many names, such as a dot or a dash, is not."""
_DEEPEST = 8


class EmbeddingName(NamedTuple):
    """An embedding that a prompt names."""

    name: str
    path: Path | None
    """None: there is no such file."""
    rest: str
    """The text after the name."""


def split_at_embeddings(
    text: str, directories: Iterable[str | os.PathLike[str]]
) -> list[str | EmbeddingName]:
    """The text in pieces: one before the first `embedding:`, and of each the name with the text after it.

    Within other words, as in `not,embedding:x`, it counts only if there is such a file.
    """
    directories = tuple(directories)
    pieces: list[str | EmbeddingName] = []
    begun = 0
    marks = [(match.start(), match.end()) for match in _MARK.finditer(text)] if directories else []
    for number, (start, after) in enumerate(marks, 1):
        end = marks[number][0] if number < len(marks) else len(text)
        found = read_name(text[after:end], directories)
        if found.path is None and start > 0 and not text[start - 1].isspace():
            continue
        if start > begun:
            _add_text(pieces, text[begun:start])
        pieces.append(found)
        begun = end
    if begun < len(text):
        _add_text(pieces, text[begun:])
    return pieces


def _add_text(pieces: list[str | EmbeddingName], text: str) -> None:
    """Add text, to that after an embedding if there is one."""
    last = pieces[-1] if pieces else None
    if isinstance(last, EmbeddingName):
        pieces[-1] = last._replace(rest=last.rest + text)
    else:
        pieces.append(text)


def read_name(text: str, directories: Iterable[str | os.PathLike[str]]) -> EmbeddingName:
    """The name at the beginning of `text`: the longest that is a file's, up to white space, `<` or `[`.

    Without a file it ends at the first punctuation, so that no words go with it.
    """
    directories = tuple(directories)
    text = text.lstrip("\n")
    match = _NAME.match(text)
    longest = match[0] if match is not None else ""
    names = [longest, *(longest[:at] for at in reversed(_ends(longest)))]
    for name in names:
        path = find_embedding(name, directories) if name else None
        if path is not None:
            return EmbeddingName(name, path, text[len(name) :])
    return EmbeddingName(names[-1], None, text[len(names[-1]) :])


def _ends(name: str) -> list[int]:
    return [match.start() for match in _WORD_ENDS.finditer(name) if match.start() > 0]


def named_files(
    text: str, directories: Iterable[str | os.PathLike[str]]
) -> Iterator[tuple[str, Path | None]]:
    """The embeddings in a prompt, each with its file."""
    for piece in split_at_embeddings(text, directories):
        if isinstance(piece, EmbeddingName):
            yield piece.name, piece.path


def find_embedding(name: str, directories: Iterable[str | os.PathLike[str]]) -> Path | None:
    """The file of an embedding, with or without its ending, in `directories` or a folder of theirs. None without.

    Either system's separator leads into a folder. A name that leads out of the directories finds nothing.
    """
    name = name.replace("\\", "/")
    for top in directories:
        top = Path(top)
        if not top.is_dir():
            continue
        for root, folders, _ in os.walk(top, followlinks=True):
            folders.sort()
            for suffix in ("", *SUFFIXES):
                try:
                    path = (Path(root) / (name + suffix)).absolute()
                    inside = Path(os.path.normpath(path)).is_relative_to(Path(root).absolute())
                    if name and inside and path.is_file():
                        return path
                except (OSError, ValueError):  # the name is too long, or has a NUL
                    return None
            # Links may lead back up.
            if len(Path(root).parts) - len(top.parts) > _DEEPEST:
                folders.clear()
    return None
