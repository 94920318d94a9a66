"""JSON: what is written can be read, and what is not JSON is refused."""

from __future__ import annotations

import json
import math

import pytest
from comfyk.wire import dumps, dumps_anything, loads, loads_anything
from hypothesis import given
from hypothesis import strategies as st

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)  # fmt: skip


@given(values)
def test_what_is_written_reads_back_here_and_elsewhere(value):
    assert loads(dumps(value)) == value == json.loads(dumps(value))


def test_what_json_has_no_form_for():
    assert json.loads(dumps({"a": math.nan, "b": math.inf, "c": (1, 2), "d": {3}})) == {
        "a": None, "b": None, "c": [1, 2], "d": [3]
    }  # fmt: skip
    assert "object" in json.loads(dumps([object()]))[0]


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "[Infinity]", "{'a': 1}", "[" * 100_000, b"\xff", '"\\ud800"x']
)
def test_what_is_not_json_is_refused(text):
    with pytest.raises(ValueError):
        loads(text)


def test_a_number_beyond_a_double_is_read_as_infinite_and_written_as_none():
    assert loads("[1e999, -1e999]") == [math.inf, -math.inf] == json.loads("[1e999, -1e999]")
    assert dumps(loads("1e999")) == b"null"


class Mute:
    def __str__(self):
        raise RuntimeError("no")


class Exits:
    def __str__(self):
        raise SystemExit(0)

    __repr__ = __str__


@pytest.mark.parametrize("power", [4298, 4299, 4300, 20_000])
def test_a_number_that_no_parser_reads_becomes_a_text(power):
    written = loads(dumps_anything({"a": [1, 10**power, -(10**power)], "b": "text"}))
    assert written["b"] == "text" and written["a"][0] == 1
    if power < 4299:
        assert written["a"][1:] == [10**power, -(10**power)]
    else:
        assert all(text.endswith("bits>") for text in written["a"][1:])


def test_long_texts_of_digits_stay():
    for text in ("7" * 4299, "7" * 20_000, "a" + "7" * 4300 + "b" * 9000):
        assert loads(dumps_anything([text])) == [text]


def test_what_would_end_the_process_is_written_too():
    class Hostile(dict):
        def items(self):
            raise SystemExit(0)

    written = loads(dumps_anything({"a": Exits(), "b": Hostile(x=1), "c": 10**5000, Exits(): 2}))
    assert "Exits" in written["a"] and written["c"] == "<a number of 16,610 bits>"


def test_anything_is_written_as_near_as_possible():
    circle: list = [1]
    circle.append(circle)
    deep: list = []
    for _ in range(1000):
        deep = [deep]
    assert json.loads(dumps_anything(circle)) == [1, "..."]
    assert dumps_anything(deep).endswith(b'"..."' + b"]" * 200)
    assert loads_anything(dumps_anything(deep))
    odd = {"a\udce4.png": "b\udce4", 5: (Mute(), 2**100, math.inf, {7}), "n": None}
    written = json.loads(dumps_anything(odd))
    assert written["a?.png"] == "b?"
    assert written["5"][0].startswith("<Mute")
    assert written["5"][1:] == [2**100, None, [7]]
    assert json.loads(dumps_anything(odd, surrogates="escape"))["a\udce4.png"] == "b\udce4"


def test_numbers_of_other_libraries_are_numbers():
    numpy = pytest.importorskip("numpy")
    for write in (dumps, dumps_anything):
        assert json.loads(write([numpy.float32(0.5), numpy.int64(3), numpy.array(7)])) == [0.5, 3, 7]
        assert json.loads(write([numpy.zeros(2)])) == ["[0. 0.]"]
    assert json.loads(dumps_anything(["\ud800", numpy.int64(3)])) == ["?", 3]
