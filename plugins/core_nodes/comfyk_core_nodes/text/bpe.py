"""The byte-pair encoding that all CLIP text encoders share (Radford et al. 2021, arXiv:2103.00020).

`data/clip_bpe.txt.gz` has its merges: OpenAI's file as open_clip ships it, under the licence beside it.
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 49152 - 256 - 2
_WORD = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def _byte_characters() -> list[str]:
    """A printable character for each byte, in the order in which the vocabulary has them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


@cache
def clip_tokenizer() -> Tokenizer:
    """Text to token numbers, without the start and end tokens."""
    source = files("comfyk_core_nodes.text") / "data" / "clip_bpe.txt.gz"
    lines = gzip.decompress(source.read_bytes()).decode("utf-8").split("\n")
    merges: list[tuple[str, str]] = []
    for line in lines[1 : MERGES + 1]:  # the first line says which version it is
        first, _, second = line.partition(" ")
        merges.append((first, second))
    letters = _byte_characters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocabulary = {word: number for number, word in enumerate([*words, START, END])}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=END, end_of_word_suffix="</w>", fuse_unk=False)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(START, special=True), AddedToken(END, special=True)])
    return tokenizer


def encode(text: str) -> list[int]:
    """The token numbers of `text`."""
    # A lone surrogate, which JSON can carry, is no text to the library.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return clip_tokenizer().encode(text, add_special_tokens=False).ids


def vocabulary() -> dict[int, str]:
    """The text of each token number; `</w>` stands where a word ends."""
    return {number: word for word, number in clip_tokenizer().get_vocab().items()}
