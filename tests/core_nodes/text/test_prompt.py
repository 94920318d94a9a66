"""The prompt syntax and the token lists. The expected lists are the reference's (`goldens/reference.json`)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from comfyk_core_nodes.text.embedding_names import find_embedding
from comfyk_core_nodes.text.prompt import parse_weights
from comfyk_core_nodes.text.tokenizer import END, START, ClipTokenizer
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

pytestmark = pytest.mark.usefixtures("seeded")

SYNTAX = "()\\:1.2 ab"


def test_weights_of_groups() -> None:
    assert parse_weights("a (b:1.3) c") == [("a ", 1.0), ("b", 1.3), (" c", 1.0)]
    assert parse_weights("(a)") == [("a", 1.1)]
    assert parse_weights("((a))") == [("a", pytest.approx(1.21))]
    assert parse_weights("(a (b:0.5))") == [("a ", 1.1), ("b", 0.5)]
    assert parse_weights("(a (b) c:2)") == [("a ", 2.0), ("b", 2.2), (" c", 2.0)]
    assert parse_weights("(a:b)") == [("a:b", 1.1)]
    assert parse_weights("(:2)") == [(":2", 1.1)]


def test_what_is_not_closed_is_text() -> None:
    assert parse_weights("(a:1.5") == [("(a:1.5", 1.0)]
    assert parse_weights("a) (b:2)") == [("a) (b:2)", 1.0)]
    assert parse_weights("") == []
    assert parse_weights("()") == []


def test_escaped_parentheses_are_text() -> None:
    assert parse_weights(r"\(a\) (b\):2)") == [("(a) ", 1.0), ("b)", 2.0)]
    assert parse_weights("\\\\(") == [("\\(", 1.0)]


@given(st.text(alphabet=SYNTAX, max_size=60))
def test_any_prompt_parses_and_keeps_its_words(text: str) -> None:
    parts = parse_weights(text)
    joined = "".join(part for part, _ in parts)
    assert joined.count("a") == text.count("a")
    assert all(isinstance(weight, float) and not math.isnan(weight) for _, weight in parts)


words = st.text(alphabet="abc ,", min_size=1, max_size=8)
weights = st.integers(1, 300).map(lambda n: n / 100)


@given(st.lists(st.tuples(words, weights), max_size=8))
def test_written_weights_are_read_back(parts: list[tuple[str, float]]) -> None:
    assert parse_weights("".join(f"({text}:{weight})" for text, weight in parts)) == parts


@given(st.text(max_size=40))
def test_escaping_any_text_leaves_it_as_it_is(text: str) -> None:
    escaped = text.replace("(", "\\(").replace(")", "\\)")
    if "\\(" in text or "\\)" in text or "\ufdd0" in text or "\ufdd1" in text:
        return
    assert parse_weights(escaped) == ([(text, 1.0)] if text else [])


def test_ten_thousand_parentheses() -> None:
    assert parse_weights("(" * 10_000) == [("(" * 10_000, 1.0)]
    assert parse_weights("(" * 500 + "a" + ")" * 500)[0][0] == "a"


CLIP_L = ClipTokenizer("clip_l", 768, END)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("one BREAK two", [637, 2568, 1237]),
        ("A Photo\n of  a CAT", [320, 1125, 539, 320, 2368]),
        ("café über naïve 日本 😀", [15304, 6522, 1516, 1097, 35689, 563, 39121, 19277, 361, 7334]),
    ],
)
def test_tokens_of_the_reference(text: str, expected: list[int]) -> None:
    (chunk,) = CLIP_L.tokenize_with_weights(text)
    tokens = [START, *expected, END]
    assert [token for token, _ in chunk] == tokens + [END] * (77 - len(tokens))


def test_open_clip_pads_with_zeros() -> None:
    (chunk,) = ClipTokenizer("clip_g", 1280, 0).tokenize_with_weights("cat")
    assert [token for token, _ in chunk[:5]] == [START, 2368, END, 0, 0]


def test_a_long_prompt_makes_chunks_of_75_tokens() -> None:
    chunks = CLIP_L.tokenize_with_weights("word " * 100)
    assert [len(chunk) for chunk in chunks] == [77, 77]
    assert chunks[0][0][0] == chunks[1][0][0] == START
    # One piece of a hundred tokens is torn; nothing of it is lost.
    assert sum(token == 2653 for chunk in chunks for token, _ in chunk) == 100
    assert chunks[0][76][0] == END


def test_a_short_word_is_not_torn() -> None:
    chunks = CLIP_L.tokenize_with_weights("word " * 73 + "(beautiful mountains landscape:1.2)")
    assert [weight for _, weight in chunks[1][1:4]] == [1.2] * 3
    assert all(weight == 1.0 for _, weight in chunks[0])


def test_word_numbers() -> None:
    (chunk,) = CLIP_L.tokenize_with_weights("red (cat)", return_word_ids=True)
    assert [entry[2] for entry in chunk[:5]] == [0, 1, 2, 0, 0]


@given(st.text(max_size=300))
def test_any_text_becomes_whole_chunks(text: str) -> None:
    for chunk in CLIP_L.tokenize_with_weights(text):
        assert len(chunk) == 77
        assert chunk[0][0] == START


@pytest.fixture
def embeddings(tmp_path: Path) -> ClipTokenizer:
    folder = tmp_path / "embeddings"
    (folder / "sub").mkdir(parents=True)
    save_file({"emb_params": torch.full((2, 768), 0.5)}, folder / "sub" / "style.safetensors")
    torch.save({"string_to_param": {"*": torch.ones(3, 768)}}, folder / "old.pt")
    save_file({"clip_g": torch.ones(1, 1280), "clip_l": torch.zeros(1, 768)}, folder / "xl.safetensors")
    (folder / "broken.pt").write_bytes(b"nothing")
    save_file({"a": torch.ones(1, 768)}, tmp_path / "outside.safetensors")
    return ClipTokenizer("clip_l", 768, END, (str(folder),))


def test_an_embedding_takes_the_place_of_its_vectors(embeddings: ClipTokenizer) -> None:
    (chunk,) = embeddings.tokenize_with_weights("a (embedding:style:1.5) cat")
    assert chunk[1] == (320, 1.0)
    assert [float(vector[0]) for vector, _ in chunk[2:4]] == [0.5, 0.5]
    assert [weight for _, weight in chunk[2:5]] == [1.5, 1.5, 1.0]
    assert chunk[4][0] == 2368


def test_embeddings_in_other_files(embeddings: ClipTokenizer) -> None:
    (chunk,) = embeddings.tokenize_with_weights("embedding:old, embedding:xl")
    assert [tuple(entry[0].shape) for entry in (*chunk[1:4], chunk[5])] == [(768,)] * 4
    assert chunk[4][0] == 267  # the comma
    assert float(chunk[5][0].sum()) == 0.0


@pytest.mark.parametrize("name", ["missing", "broken", "../outside", "/etc/passwd", "\0", "x" * 5000])
def test_an_embedding_that_cannot_be_loaded_is_left_out(embeddings: ClipTokenizer, name: str) -> None:
    (chunk,) = embeddings.tokenize_with_weights(f"embedding:{name} cat")
    assert [token for token, _ in chunk[:3]] == [START, 2368, END]


def test_a_link_that_leads_up_ends(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_embedding("nothing", [tmp_path]) is None


def spelled(chunk: list[tuple[object, ...]]) -> list[object]:
    """The tokens between start and end; of a vector its first value."""
    tokens = [entry[0] for entry in chunk[1:]]
    spelt = [float(token[0]) if isinstance(token, torch.Tensor) else token for token in tokens]
    return spelt[: spelt.index(END)]


STYLE = [0.5, 0.5]
CAT, COMMA, DOG, DOT, BANG = 2368, 267, 1929, 269, 256


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("embedding:style,dog", [*STYLE, COMMA, DOG]),
        ("embedding:style, dog", [*STYLE, COMMA, DOG]),
        ("embedding:style.", [*STYLE, DOT]),
        ("embedding:style. dog", [*STYLE, DOT, DOG]),
        ("embedding:style!", [*STYLE, BANG]),
        ("(embedding:style:1.2)", STYLE),
        ("(embedding:style)", STYLE),
        ("(embedding:style, dog:1.2)", [*STYLE, COMMA, DOG]),
        ("cat,embedding:style,dog", [CAT, COMMA, *STYLE, COMMA, DOG]),
        ("embedding:style,embedding:style", [*STYLE, COMMA, *STYLE]),
        ("embedding:style.safetensors, dog", [*STYLE, COMMA, DOG]),
        ("embedding:sub/style,dog", [*STYLE, COMMA, DOG]),
        ("embedding:sub\\style dog", [*STYLE, DOG]),
        ("embedding:SUB\\none,dog", [COMMA, DOG]),
        ("embedding:none,dog", [COMMA, DOG]),
        ("embedding:none. dog", [DOT, DOG]),
        ("embedding:none embedding:style dog", [*STYLE, DOG]),
        ("cat embedding:none\ndog", [CAT, DOG]),
        ("embedding:with,comma dog", [2.0, DOG]),
        ("embedding:v1.5,dog", [3.0, COMMA, DOG]),
    ],
)
def test_punctuation_beside_an_embedding(
    embeddings: ClipTokenizer, text: str, expected: list[object]
) -> None:
    folder = Path(embeddings.embedding_directory[0])
    save_file({"emb_params": torch.full((1, 768), 2.0)}, folder / "with,comma.safetensors")
    save_file({"emb_params": torch.full((1, 768), 3.0)}, folder / "v1.5.safetensors")
    (chunk,) = embeddings.tokenize_with_weights(text)
    assert spelled(chunk) == expected


def test_a_missing_embedding_is_logged(embeddings: ClipTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    embeddings.tokenize_with_weights("embedding:none,dog")
    assert "embedding none was not found" in caplog.text
