"""The reply parser: equal replies however the bytes are cut, `BadReply` for all else."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lj_services.memcached.protocol.reply_parser import (
    MAX_LINE,
    BadReply,
    Failure,
    Meta,
    Number,
    Reply,
    ReplyParser,
    Stat,
    Status,
    Value,
    Version,
    encode,
)

pytestmark = pytest.mark.unit

keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20).map(
    str.encode
)
text = st.binary(max_size=30).filter(lambda line: b"\r" not in line and b"\n" not in line)
data = st.binary(max_size=300)
uint64 = st.integers(0, 2**64 - 1)
replies: st.SearchStrategy[Reply] = st.one_of(
    st.sampled_from(list(Status)),
    st.builds(Value, keys, st.integers(0, 2**32 - 1), data, st.none() | uint64),
    st.builds(Stat, keys, text),
    st.builds(Number, uint64),
    st.builds(Version, text),
    st.builds(Failure, st.sampled_from(["ERROR", "CLIENT_ERROR", "SERVER_ERROR"]), text),
    st.builds(
        Meta,
        st.sampled_from([b"HD", b"EN", b"MN", b"NS", b"EX", b"NF", b"ME"]),
        st.lists(keys, max_size=4).map(tuple),
        st.none(),
    ),
    st.builds(Meta, st.just(b"VA"), st.lists(keys, max_size=4).map(tuple), data),
)


def feed_cut(parser: ReplyParser, stream: bytes, cuts: list[int]) -> None:
    at = 0
    for cut in [*sorted(cut for cut in cuts if cut <= len(stream)), len(stream)]:
        parser.feed(stream[at:cut])
        at = cut


@given(st.lists(replies, max_size=8), st.lists(st.integers(0, 2000), max_size=20))
@example([Value(b"k", 0, b"END\r\n", None), Status.END], list(range(40)))
def test_what_is_encoded_is_read_back_however_it_is_cut(sent: list[Reply], cuts: list[int]) -> None:
    parser = ReplyParser()
    feed_cut(parser, b"".join(map(encode, sent)), cuts)
    assert parser.replies == sent
    assert parser.closed == sum(not isinstance(reply, Value | Stat) for reply in sent)
    assert parser.held == 0


@given(st.lists(replies, min_size=1, max_size=4), st.data())
def test_half_a_reply_is_no_reply(sent: list[Reply], draw: st.DataObject) -> None:
    whole = b"".join(map(encode, sent[:-1]))
    last = encode(sent[-1])
    part = draw.draw(st.integers(1, len(last) - 1))
    parser = ReplyParser()
    parser.feed(whole + last[:part])
    assert parser.replies == sent[:-1]
    assert parser.held == part


@given(st.lists(st.binary(max_size=40), max_size=10))
@example([b"VALUE k 0 -5\r\n"])
@example([b"VALUE k 0 1_0\r\n"])
@example([b"VA x\r\n"])
@example([b"\r\n"])
def test_garbage_is_a_bad_reply_and_nothing_else(pieces: list[bytes]) -> None:
    parser = ReplyParser()
    try:
        for piece in pieces:
            parser.feed(piece)
    except BadReply:
        with pytest.raises(BadReply):
            parser.feed(b"END\r\n")


@pytest.mark.parametrize(
    "stream",
    [
        b"HELLO\r\n",
        b"VALUE k 0\r\n",
        b"VALUE k 0 1 2 3\r\n",
        b"VALUE k 0 three\r\n",
        b"VALUE k 0 3\r\nabcdef\r\n",
        b"12 34\r\n",
        b"123456789012345678901\r\n",
        b"x" * (MAX_LINE + 2),
        b"HTTP/1.1 400 Bad Request\r\n",
    ],
)
def test_what_is_no_reply(stream: bytes) -> None:
    with pytest.raises(BadReply):
        ReplyParser().feed(stream)


def test_a_number_may_be_padded() -> None:
    parser = ReplyParser()
    parser.feed(b"9 \r\n")
    assert parser.replies == [Number(9)]


def test_a_value_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadReply, match="at most 100"):
        ReplyParser(max_value=100).feed(b"VALUE k 0 101\r\n")


def test_a_line_without_end_does_not_grow_memory() -> None:
    parser = ReplyParser()
    for _ in range(MAX_LINE + 1):
        parser.feed(b"x")
    with pytest.raises(BadReply, match="longer than"):
        parser.feed(b"x")


class Watched(ReplyParser):
    """One that can be referred to weakly."""


def test_a_parser_that_has_refused_is_freed_with_its_connection() -> None:
    parser = Watched()
    with pytest.raises(BadReply):
        parser.feed(b"VALUE k 0 3\r\nabcdef\r\n")
    freed = weakref.ref(parser)
    gc.disable()  # no cycle has to be found first
    try:
        del parser
        assert freed() is None
    finally:
        gc.enable()
