"""Keys: what can be sent, and what is the caller's mistake."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.memcached.errors import BadKey
from lj_services.memcached.keys import KeySpace, Placed, fits_a_line
from lj_services.memcached.protocol.commands import valid_key

pytestmark = pytest.mark.unit


def test_the_forms_of_a_key() -> None:
    assert KeySpace("").place("é") == Placed("é".encode(), "é".encode(), None)
    assert KeySpace("lj:").place(b"a") == Placed(b"lj:a", b"a", None)
    assert KeySpace("lj:").place((42, "log2:42")) == Placed(b"lj:log2:42", b"log2:42", 42)


@pytest.mark.parametrize(
    "key",
    [
        *(
            "",
            b"",
            (1, ""),
            "a b",
            "a\r\nb",
            "a\x00",
            "a\x7f",
            "\t",
            "x" * 251,
            "é" * 126,
            "\ud800",
        ),
        *(None, 1, 1.5, ["a"], ("a", "b"), (1, "a", 2), (1,), (1, 2), (None, "a")),
    ],
)
def test_what_is_no_key(key: Any) -> None:
    with pytest.raises(BadKey, match="no key"):
        KeySpace("").place(key)


def test_the_namespace_counts() -> None:
    assert KeySpace("n" * 10).place("x" * 240).wire == b"n" * 10 + b"x" * 240
    with pytest.raises(BadKey, match="251"):
        KeySpace("n" * 10).place("x" * 241)
    with pytest.raises(BadKey, match="namespace"):
        KeySpace("a b")


@given(st.binary(max_size=260))
def test_both_ways_to_ask_agree(key: bytes) -> None:
    assert bool(fits_a_line(key)) == valid_key(key)
