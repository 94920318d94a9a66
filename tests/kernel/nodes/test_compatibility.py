"""Which outputs go into which inputs."""

from comfyk.nodes.types import is_compatible
from hypothesis import given
from hypothesis import strategies as st


class Anything(str):
    """What many packs have as their any type."""

    __slots__ = ()

    def __ne__(self, other):
        return False


def test_names():
    assert is_compatible("IMAGE", "IMAGE")
    assert not is_compatible("IMAGE", "MASK")
    assert is_compatible("IMAGE", "MASK, IMAGE")
    assert is_compatible("STRING,BOOLEAN", "STRING,INT")
    assert not is_compatible("STRING,BOOLEAN", "STRING,INT", strict=True)
    assert is_compatible("STRING", "STRING,INT", strict=True)


def test_wildcards_both_ways():
    for wild in ("*", "INT,*", "COMFY_MATCHTYPE_V3", Anything("*"), Anything("WHATEVER")):
        for other in ("IMAGE", ["a", "b"], "COMBO"):
            assert is_compatible(wild, other)
            assert is_compatible(other, wild)


def test_combos():
    assert is_compatible(["a"], ["a"])
    assert not is_compatible(["a"], ["b"])
    assert is_compatible(["a"], "COMBO")
    assert is_compatible("COMBO", ["a"])
    assert not is_compatible("STRING", ["a"])
    assert not is_compatible(["a"], "STRING")
    assert not is_compatible(None, "IMAGE")  # type: ignore[arg-type]


NAMES = st.lists(st.sampled_from(["A", "B", "C", "D"]), min_size=1, max_size=3)


@given(NAMES, NAMES)
def test_common_names_decide(have, need):
    received, wanted = ",".join(have), " , ".join(need)
    assert is_compatible(received, wanted) == bool(set(have) & set(need)) == is_compatible(wanted, received)
    assert is_compatible(received, wanted, strict=True) == (set(have) <= set(need))
