"""JSON: what is written can be read, and what is not JSON is refused."""

from __future__ import annotations

import json
import math

import pytest
from comfyk.wire import dumps, loads
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
