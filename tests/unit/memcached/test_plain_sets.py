"""Plain sets that stand one behind the other: the parser's short way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.memcached.protocol.commands import (
    MAX_KEY,
    Refused,
    Request,
    Sets,
    Store,
    encode,
)
from lj_services.memcached.protocol.parser import RequestParser
from lj_services.memcached.protocol.plain_sets import ALIKE, SHORT
from tests.support.memcached_requests import (
    MAX_ITEM,
    block,
    garbage_lines,
    keys,
    parse,
    requests,
    store_of,
    typed,
    values,
)

pytestmark = pytest.mark.unit

plain_sets = st.builds(
    Store,
    st.just("set"),
    keys,
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**9 - 1),
    values,
    cas=st.just(0),
    noreply=st.just(False),
)


@given(st.lists(plain_sets, min_size=1, max_size=5), requests | garbage_lines)
def test_plain_sets_in_a_row_are_given_out_together(
    sets: list[Store], other: Request | bytes
) -> None:
    parser = RequestParser(MAX_ITEM)
    last = other if isinstance(other, bytes) else encode(other)
    parser.feed(b"".join(map(encode, sets)) + last)
    first = parser.next_request()
    if all(len(encode(one)) - len(one.value) <= MAX_KEY for one in sets):
        assert isinstance(first, Sets)
        assert list(map(store_of, first.sets[: len(sets)])) == sets


@pytest.mark.parametrize(
    "end",
    [
        b"set k 0 0 1 noreply\r\nx\r\n",
        b"set k 0 -1 1\r\nx\r\n",
        b"set k 4294967295 0 1\r\nx\r\n",
        b"set k 0 0 1\nx\r\n",
        b"set  k 0 0 1\r\nx\r\n",
        b"set  0 0 1\r\nx\r\n",
        b"set k 007 0 1\r\nx\r\n",
        b"set k 0 0 01\r\nx\r\n",
        b"set k\r\nget 0 0 1\r\n",
        b"set k\n 0 0 1\r\nx\r\n",
        b"set " + b"k" * MAX_KEY + b" 0 0 1\r\nx\r\n",
        b"set k 0 0 1\r\nxx\r\n",
        b"set k 0 0 2000\r\n" + b"x" * 2000 + b"\r\n",
        b"set k 0 0 10\r\nxx",
        b"set k 0 ",
        b"get k\r\n",
    ],
)
def test_whatever_else_ends_the_row(end: bytes) -> None:
    row = b"set a 1 2 1\r\nx\r\nset b 3 4 0\r\n\r\n"
    parser = RequestParser(MAX_ITEM)
    parser.feed(row + end)
    first, second = (b"a", block(b"a", 1, b"x"), 2), (b"b", block(b"b", 3, b""), 4)
    assert parser.next_request() == Sets([first, second])
    assert typed(parse(row + end)[2:]) == typed(parse(end))

    alike = b"".join(b"set %d 0 0 1\r\nx\r\n" % key for key in range(10))
    assert len(parse(alike)) == 10
    assert typed(parse(alike + end)[10:]) == typed(parse(end))


@given(
    st.lists(st.tuples(keys, st.binary(min_size=4, max_size=4)), min_size=ALIKE, max_size=20),
    st.integers(0, 3),
    requests | garbage_lines,
    st.integers(min_value=1),
)
def test_sets_that_are_alike_are_read_as_they_are_one_by_one(
    sets: list[tuple[bytes, bytes]], flags: int, other: Request | bytes, cut: int
) -> None:
    row = [b"set %b %d 0 4\r\n%b\r\n" % (key, flags, value) for key, value in sets]
    last = other if isinstance(other, bytes) else encode(other)
    stream = b"".join(row) + last
    one_by_one = typed(parse(*row, last))
    assert typed(parse(stream)) == one_by_one
    cut %= len(stream)
    assert typed(parse(stream[:cut], stream[cut:])) == one_by_one


@pytest.mark.parametrize("over", [0, 1])
def test_the_limit_of_an_item_holds_in_a_row(over: int) -> None:
    size = SHORT - 1
    parser = RequestParser(size + 2)
    row = [b"set %b 0 0 %d\r\n%b\r\n" % (b"k" * length, size, bytes(size)) for length in (1, 2) * 3]
    parser.feed(b"".join(row) + b"set %b 0 0 %d\r\n%b\r\n" % (b"k" * (2 + over), size, bytes(size)))
    first = parser.next_request()
    assert isinstance(first, Sets)
    assert len(first.sets) == 7 - over
    refused = parser.next_request()
    assert refused is None if not over else isinstance(refused, Refused)
