"""What others send cannot forge lines of the log, or steer the terminal that shows it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from comfyk.logs import LineFormatter, printable

FORGED = "a\r\n12:00:00 INFO    all is well\x1b[2J\x9b1A\u2028x\u202eb\u200b\ud800"


@pytest.fixture
def written() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger, and what it wrote."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("%(levelname)s %(message)s"))
    logger = logging.Logger("test", logging.DEBUG)
    logger.addHandler(handler)
    yield logger, stream


def lines(stream: io.StringIO) -> list[str]:
    text = stream.getvalue()
    assert text.endswith("\n")
    return text[:-1].split("\n")


def test_a_record_is_one_printable_line(written: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = written
    logger.warning("refused %s", FORGED)
    logger.warning(f"refused {FORGED}")
    logger.info("plain: ü 漢字 🎨 \t")
    first, second, plain = lines(stream)
    assert first == second
    assert first == (
        r"WARNING refused a\r\n12:00:00 INFO    all is well\x1b[2J\x9b1A\u2028x\u202eb\u200b\ud800"
    )
    assert first.isprintable()
    assert plain == r"INFO plain: ü 漢字 🎨 \t"


def test_a_traceback_follows_behind_a_bar(written: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = written
    try:
        raise ValueError(f"no {FORGED}")
    except ValueError:
        logger.exception("it failed")
    first, *rest = lines(stream)
    assert first == "ERROR it failed"
    assert rest[0] == "    | Traceback (most recent call last):"
    assert all(line.startswith("    | ") and line.isprintable() for line in rest)
    assert any(line.startswith("    | 12:00:00 INFO") for line in rest)


def test_lines_that_the_author_wrote_stay_lines(written: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = written
    logger.error("pack %s failed\n%s", "x", "Traceback:\n  line\x07\n")
    assert lines(stream) == ["ERROR pack x failed", "    | Traceback:", r"    |   line\x07"]


def test_a_line_has_an_end(written: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = written
    logger.info("%s", "x" * 1_000_000)
    (line,) = lines(stream)
    assert len(line) < 20_000 and line.endswith("more characters)")


@pytest.mark.parametrize("character", [chr(code) for code in (*range(32), *range(0x7F, 0xA0))])
def test_no_control_character_is_left(character: str) -> None:
    assert printable(f"a{character}b").isprintable()
