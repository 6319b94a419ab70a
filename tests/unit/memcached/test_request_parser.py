"""The request parser: every request, wherever its bytes are cut, and whatever else arrives."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lj_services.memcached.protocol import replies
from lj_services.memcached.protocol.commands import (
    Get,
    Refused,
    Request,
    Sets,
    Store,
    Version,
    encode,
)
from lj_services.memcached.protocol.parser import MAX_GET_LINE, MAX_LINE, RequestParser
from tests.support.memcached_requests import (
    MAX_ITEM,
    block,
    garbage_lines,
    parse,
    parse_one,
    requests,
    streams,
    typed,
)

pytestmark = pytest.mark.unit


@given(st.lists(requests, max_size=8))
def test_what_is_written_is_read_back(sent: list[Request]) -> None:
    assert typed(parse(b"".join(map(encode, sent)))) == typed(list(sent))


@given(streams | st.binary(max_size=3000), st.lists(st.integers(0, 3000), max_size=12))
@example(b"get k\r\n", [1, 2, 3, 4, 5, 6])
@example(b"set k 0 0 5000\r\n" + b"x" * 5000 + b"\r\nget k\r\n", [3, 17, 20, 3000])
@example(b"get " + b"k" * 5000 + b"\r\nversion\r\n", [100, 2100, 3000])
def test_cuts_change_nothing(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut <= len(stream)), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(places)]
    assert typed(parse(*pieces)) == typed(parse(stream))


@given(streams)
def test_byte_by_byte_is_the_same(stream: bytes) -> None:
    assert typed(parse(*(bytes([byte]) for byte in stream))) == typed(parse(stream))


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_garbage_never_raises_and_is_not_kept(pieces: list[bytes]) -> None:
    parser = RequestParser(MAX_ITEM)
    for piece in pieces:
        parser.feed(piece)
        while parser.next_request() is not None:
            pass
        assert parser.held <= MAX_GET_LINE


@given(requests.map(encode) | garbage_lines | st.binary(max_size=100))
def test_the_short_cut_for_a_lone_get_agrees_with_the_parser(data: bytes) -> None:
    keys = RequestParser(MAX_ITEM).lone_get(data)
    if keys is not None:
        assert typed(parse(data)) == [(Get, Get(keys))]


def test_the_short_cut_is_not_taken_in_the_middle_of_a_request() -> None:
    parser = RequestParser(MAX_ITEM)
    parser.feed(b"set k 0 0 7\r\n")
    assert parser.next_request() is None
    assert parser.lone_get(b"get k\r\n") is None
    parser.feed(b"get k\r\n\r\n")
    assert parse_one(parser) == Sets([(b"k", block(b"k", 0, b"get k\r\n"), 0)])


@given(streams)
def test_a_client_that_rests_costs_no_memory(stream: bytes) -> None:
    parser = RequestParser(MAX_ITEM)
    parser.feed(stream)
    while parser.next_request() is not None:
        pass
    if parser.idle:
        assert not parser.held
        assert not parser._buffer  # what was read last is let go


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"get", replies.ERROR),
        (b"gat", replies.ERROR),
        (b"gat x k", replies.BAD_EXPTIME),
        (b"set k 0 0", replies.ERROR),
        (b"set k 0 0 x", replies.BAD_LINE),
        (b"set k -1 0 1", replies.BAD_LINE),
        (b"set k 4294967296 0 1", replies.BAD_LINE),
        (b"set k 0 0 1_0", replies.BAD_LINE),
        (b"set " + b"k" * 251 + b" 0 0 1", replies.BAD_LINE),
        (b"cas k 0 0 1 x", replies.BAD_LINE),
        (
            b"delete k 1",
            b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n",
        ),
        (b"incr k -1", replies.BAD_DELTA),
        (b"incr k 18446744073709551616", replies.BAD_DELTA),
        (b"touch k soon", replies.BAD_EXPTIME),
        (b"flush_all never", replies.BAD_EXPTIME),
        (b"verbosity", replies.ERROR),
        (b"verbosity much", replies.BAD_LINE),
        (b"cache_memlimit lots", replies.ERROR),
        (b"GET k", replies.ERROR),
        (b"mg", replies.ERROR),
        (b"mg k t t", b"CLIENT_ERROR duplicate flag\r\n"),
        (b"mg k !", b"CLIENT_ERROR invalid flag\r\n"),
        (b"md k !", b"CLIENT_ERROR invalid or duplicate flag\r\n"),
        (b"ma k Dx", b"CLIENT_ERROR invalid or duplicate flag\r\n"),
        (b"mg k Tx", b"CLIENT_ERROR bad token in command line format\r\n"),
        (b"mg k O" + b"o" * 40, b"CLIENT_ERROR opaque token too long\r\n"),
        (b"mg ===== b", b"CLIENT_ERROR error decoding key\r\n"),
        (b"ma k Mx", b"CLIENT_ERROR invalid mode for ma M token\r\n"),
        (b"mg k " + b"t " * 30, b"CLIENT_ERROR options flags are too long\r\n"),
        (b"ms k", replies.BAD_LINE),
        (b"ms k abc", replies.BAD_LINE),
    ],
)
def test_a_bad_line_is_refused_and_the_next_one_read(line: bytes, reply: bytes) -> None:
    assert parse(line + b"\r\nversion\r\n") == [Refused(reply), Version()]


def test_noreply_silences_refusals() -> None:
    assert parse(b"set k x 0 1 noreply\r\n") == [Refused(b"")]
    assert parse(b"incr k x noreply\r\n") == [Refused(b"")]


def test_a_wrong_byte_count_costs_one_request() -> None:
    too_long = parse(b"set k 0 0 3\r\nabcd\r\nversion\r\n")
    assert too_long == [Refused(replies.BAD_CHUNK), Refused(replies.ERROR), Version()]
    too_short = parse(b"set k 0 0 5\r\nabc\r\nversion\r\nversion\r\n")
    assert too_short[0] == Refused(replies.BAD_CHUNK)
    assert too_short[-1] == Version()


def test_a_value_over_the_limit_is_refused_at_once_and_never_held() -> None:
    parser = RequestParser(MAX_ITEM)
    parser.feed(b"set key 0 0 1000000\r\n")
    assert parser.next_request() == Refused(replies.TOO_LARGE, forget=b"key")
    for _ in range(1000):
        parser.feed(b"x" * 1000)
        assert parser.next_request() is None
        assert parser.held == 0
    parser.feed(b"\r\nversion\r\n")
    assert parser.next_request() == Version()


def test_the_largest_item_is_taken() -> None:
    value = b"x" * (MAX_ITEM - 1)
    assert parse(b"set k 0 0 999\r\n" + value + b"\r\n") == [Store("set", b"k", 0, 0, value)]
    assert parse(b"set kk 0 0 999\r\n" + value + b"\r\n") == [
        Refused(replies.TOO_LARGE, False, b"kk")
    ]


@pytest.mark.parametrize("ending", [b"", b"\r\n"])
def test_a_line_without_end_closes_the_connection(ending: bytes) -> None:
    refusal = parse(b"x" * (MAX_LINE + 1) + ending, b"version\r\n")
    assert refusal == [Refused(b"CLIENT_ERROR line too long\r\n", close=True)]
    refusal = parse(b"get " + b"x" * MAX_GET_LINE + ending, b"version\r\n")
    assert refusal == [Refused(b"CLIENT_ERROR line too long\r\n", close=True)]


def test_a_get_may_ask_for_a_thousand_keys() -> None:
    keys = [b"%0250d" % number for number in range(1000)]
    assert parse(encode(Get(keys))) == [Get(keys)]


def test_the_binary_protocol_is_refused_in_its_own_form() -> None:
    noop = b"\x80\x0a" + bytes(10) + b"oooo" + bytes(8)
    (refusal,) = parse(noop)
    assert isinstance(refusal, Refused)
    assert refusal.close
    header, text = refusal.reply[:24], refusal.reply[24:]
    assert header[:2] == b"\x81\x0a"
    assert header[6:8] == b"\x00\x81"  # status: unknown command
    assert int.from_bytes(header[8:12], "big") == len(text)
    assert header[12:16] == b"oooo"
    assert b"text protocol" in text


def test_a_web_request_is_cut_off() -> None:
    page = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nset k 0 0 1\r\nx\r\n"
    assert parse(page) == [Refused(b"", close=True)]


def test_held_memory_can_be_given_up() -> None:
    parser = RequestParser(MAX_ITEM)
    parser.feed(b"set k 0 0 500\r\n" + b"x" * 100)
    assert parser.next_request() is None
    assert parser.held == 115
    assert parser.give_up_held() == Refused(replies.OUT_OF_MEMORY)
    assert parser.held == 0
    parser.feed(b"x" * 400 + b"\r\nversion\r\n")
    assert parser.next_request() == Version()
    parser.feed(b"get half a li")
    assert parser.next_request() is None
    assert parser.give_up_held() == Refused(replies.OUT_OF_MEMORY, close=True)
