"""Prompts to the token lists that the text encoders take: chunks of 77 `(token, weight)`.

A token is a number, or for a textual inversion its vector. With word numbers (`return_word_ids`) each entry is
`(token, weight, word)`; words count from 1, and 0 is what is no word: start, end and padding.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from comfyk_core_nodes.text import bpe
from comfyk_core_nodes.text.embedding_names import EmbeddingName, split_at_embeddings
from comfyk_core_nodes.text.embeddings import load_embedding
from comfyk_core_nodes.text.prompt import parse_weights

log = logging.getLogger(__name__)

Token = int | Tensor
Chunk = list[tuple[Any, ...]]

START, END = 49406, 49407
KEEP_TOGETHER = 8
"""A word of fewer tokens is not torn between chunks: it starts the next one."""


@dataclass
class ClipTokenizer:
    """The tokenizer of one text encoder; `embedding_size` is the width of its vectors."""

    embedding_key: str
    embedding_size: int
    pad_token: int
    embedding_directory: Sequence[str | os.PathLike[str]] = field(default_factory=tuple)
    max_length: int = 77
    start_token: int = START
    end_token: int = END

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, *, disable_weights: bool = False, **kwargs: Any
    ) -> list[Chunk]:
        """The chunks of a prompt, each `max_length` long."""
        parts = [(text, 1.0)] if disable_weights else parse_weights(text)
        words: list[list[tuple[Token, float]]] = []
        for part, weight in parts:
            for piece in split_at_embeddings(part, self.embedding_directory):
                words.extend([(token, weight) for token in tokens] for tokens in self._words(piece))
        chunks = self._chunks(words)
        return chunks if return_word_ids else [[entry[:2] for entry in chunk] for chunk in chunks]

    def untokenize(self, tokens: Chunk) -> list[tuple[Any, str]]:
        vocabulary = bpe.vocabulary()
        return [(entry, vocabulary[entry[0]]) for entry in tokens]

    def _words(self, piece: str | EmbeddingName) -> list[list[Token]]:
        """The tokens of a piece of text, as one word; an embedding is a word of its own."""
        if isinstance(piece, str):
            return [list(bpe.encode(piece))]
        words: list[list[Token]] = []
        if piece.path is None:
            log.warning("the embedding %s was not found; it is left out", piece.name or "without a name")
        else:
            vectors = load_embedding(piece.path, self.embedding_size, self.embedding_key)
            if vectors is not None:
                words.append(list(vectors))
        if piece.rest.strip():
            words.append(list(bpe.encode(piece.rest)))
        return words

    def _chunks(self, words: list[list[tuple[Token, float]]]) -> list[Chunk]:
        room = self.max_length - 1  # for all but the end token
        start, end = (self.start_token, 1.0, 0), (self.end_token, 1.0, 0)
        padding = (self.pad_token, 1.0, 0)
        chunk: Chunk = [start]
        chunks = [chunk]
        for number, word in enumerate(words, 1):
            entries = [(token, weight, number) for token, weight in word]
            while entries:
                left = room - len(chunk)
                if len(entries) <= left:
                    chunk.extend(entries)
                    break
                if len(word) >= KEEP_TOGETHER:
                    chunk.extend(entries[:left])
                    entries = entries[left:]
                    chunk.append(end)
                else:
                    chunk.extend([end, *[padding] * left])
                chunk = [start]
                chunks.append(chunk)
        chunk.append(end)
        chunk.extend([padding] * (self.max_length - len(chunk)))
        return chunks


@dataclass
class Tokenizer:
    """The tokenizers of a model's text encoders, by their short name: `l`, `h` or `g`."""

    encoders: dict[str, ClipTokenizer]

    def __getattr__(self, name: str) -> ClipTokenizer:
        """`clip_l` and so on, as the field has them."""
        encoders = self.__dict__.get("encoders", {})
        if name.startswith("clip_") and name[5:] in encoders:
            return encoders[name[5:]]
        raise AttributeError(name)

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **kwargs: Any
    ) -> dict[str, list[Chunk]]:
        return {
            name: encoder.tokenize_with_weights(text, return_word_ids, **kwargs)
            for name, encoder in self.encoders.items()
        }

    def untokenize(self, tokens: Chunk) -> list[tuple[Any, str]]:
        return next(iter(self.encoders.values())).untokenize(tokens)

    def state_dict(self) -> dict[str, Tensor]:
        return {}
