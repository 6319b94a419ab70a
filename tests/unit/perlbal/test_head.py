"""Heads of HTTP/1: what is taken, and how; what is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.perlbal.http.errors import BadMessage
from lj_services.perlbal.http.head import (
    CHUNKED,
    MAX_HEAD,
    UNTIL_CLOSE,
    RequestHead,
    ResponseHead,
)
from lj_services.perlbal.http.incomplete import check_more
from lj_services.perlbal.http.parse import parse_request, parse_response

pytestmark = pytest.mark.unit


def request(data: bytes) -> RequestHead:
    """The head of a complete request."""
    parsed = parse_request(data)
    assert parsed is not None
    assert parsed[1] == len(data)
    return parsed[0]


def response(data: bytes, method: bytes = b"GET") -> ResponseHead:
    """The head of a complete response."""
    parsed = parse_response(data, method)
    assert parsed is not None
    return parsed[0]


def refused(data: bytes) -> int:
    """The status with which a request is refused."""
    with pytest.raises(BadMessage) as caught:
        parse_request(data)
    return caught.value.status


def test_a_request_is_read() -> None:
    head = request(b"GET /a?b=c HTTP/1.1\r\nHost: example.com\r\nX-A:  1 \r\nx-a: 2\r\n\r\n")
    assert (head.method, head.target, head.minor) == (b"GET", b"/a?b=c", 1)
    assert head.host == b"example.com"
    assert head.fields[b"x-a"] == b"1, 2"
    assert head.lines == [b"Host: example.com", b"X-A:  1 ", b"x-a: 2"]
    assert head.length == 0
    assert head.keep_alive


def test_what_follows_the_head_is_left() -> None:
    data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    parsed = parse_request(data)
    assert parsed is not None
    head, used = parsed
    assert head.length == 3
    assert data[used:] == b"abc"


def test_cookies_that_are_sent_apart_are_put_together_as_cookies_are() -> None:
    head = request(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n")
    assert head.fields[b"cookie"] == b"a=1; b=2"


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: x, Close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
    ],
)
def test_whether_the_connection_persists(version: bytes, connection: bytes, kept: bool) -> None:
    head = request(b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + connection + b"\r\n")
    assert head.keep_alive is kept


def test_fields_of_this_hop_are_not_passed_on() -> None:
    head = request(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\n"
        b"Keep-Alive: 5\r\nTE: trailers\r\nX-Other: 2\r\n\r\n"
    )
    assert head.kept_lines() == [b"Host: a", b"X-Other: 2"]


def test_connection_cannot_take_away_what_frames_or_routes() -> None:
    head = request(
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: host, content-length\r\n"
        b"Content-Length: 1\r\n\r\n"
    )
    assert head.kept_lines() == [b"Host: a", b"Content-Length: 1"]


def test_names_that_cgi_takes_for_ours_are_not_passed_on() -> None:
    head = request(b"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 9.9.9.9\r\nX_Y: 1\r\n\r\n")
    assert head.kept_lines() == [b"Host: a", b"X_Y: 1"]


def test_absolute_form_becomes_origin_form_and_names_the_host() -> None:
    head = request(b"GET http://b.example:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (head.target, head.host) == (b"/x?y", b"b.example:81")
    assert head.kept_lines() == [b"Host: b.example:81"]
    assert request(b"GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n").target == b"/?q"


def test_upgrade_and_expect() -> None:
    head = request(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    assert head.upgrade == b"websocket"
    head = request(
        b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n"
    )
    assert head.expects_continue


def test_one_empty_line_before_a_request_is_tolerated() -> None:
    assert request(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").method == b"GET"
    assert refused(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n") == 400


SMUGGLED = {
    "length twice": b"Content-Length: 1\r\nContent-Length: 1",
    "lengths that differ": b"Content-Length: 1\r\nContent-Length: 2",
    "lengths in a list": b"Content-Length: 1, 1",
    "length with a sign": b"Content-Length: +1",
    "negative length": b"Content-Length: -1",
    "length in hexadecimal": b"Content-Length: 0x1",
    "length with a space inside": b"Content-Length: 1 1",
    "empty length": b"Content-Length: ",
    "length that overflows": b"Content-Length: 99999999999999999999",
    "length in other digits": "Content-Length: ١".encode(),
    "length and coding": b"Content-Length: 1\r\nTransfer-Encoding: chunked",
    "coding and length": b"Transfer-Encoding: chunked\r\nContent-Length: 1",
    "coding twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "coding twice, one unknown": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    "space before the colon": b"Transfer-Encoding : chunked",
    "length, space before the colon": b"Content-Length : 1",
    "tab before the colon": b"Transfer-Encoding\t: chunked",
    "space before the name": b" Transfer-Encoding: chunked",
    "folded": b"X: 1\r\n Transfer-Encoding: chunked",
    "folded value": b"Transfer-Encoding:\r\n chunked",
    "vertical tab": b"Transfer-Encoding: \x0bchunked",
    "NUL in a value": b"X: a\x00b",
    "bare CR in a value": b"X: a\rTransfer-Encoding: chunked",
    "bare LF in a value": b"X: a\nTransfer-Encoding: chunked",
    "bare LF at the end of a line": b"X: a\nContent-Length: 1",
    "no colon": b"Transfer-Encoding chunked",
    "empty name": b": chunked",
    "underscored length": b"Content_Length: 5",
    "underscored coding": b"Transfer_Encoding: chunked",
    "not a token": b"Content-Length\xff: 5",
    "second host": b"Host: other",
}


@pytest.mark.parametrize("lines", SMUGGLED.values(), ids=SMUGGLED.keys())
def test_ambiguous_requests_are_refused(lines: bytes) -> None:
    assert refused(b"POST / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n\r\n") == 400


@pytest.mark.parametrize(
    "coding",
    [
        b"xchunked",
        b"chunked, identity",
        b"identity",
        b"gzip, chunked",
        b'"chunked"',
        b"chunked;q=1",
    ],
)
def test_codings_other_than_chunked_are_refused(coding: bytes) -> None:
    assert (
        refused(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: " + coding + b"\r\n\r\n") == 501
    )


def test_a_coding_in_http_1_0_is_refused() -> None:
    assert refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n") == 400


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", 417),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"a" * 9000, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * MAX_HEAD + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * MAX_HEAD, 431),
    ],
)
def test_malformed_requests_are_refused(data: bytes, status: int) -> None:
    assert refused(data) == status


def test_another_version_is_told_so() -> None:
    assert refused(b"GET / HTTP/3.0\r\nHost: a\r\n") == 505


@given(st.integers(min_value=1, max_value=46))
def test_the_start_of_a_request_is_incomplete(cut: int) -> None:
    data = b"GET /path HTTP/1.1\r\nHost: example.com\r\nA: b\r\n\r\n"
    assert parse_request(data[:cut]) is None


@given(st.binary(max_size=200))
def test_nothing_but_bad_message_is_raised(data: bytes) -> None:
    for whole in (data, b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"):
        with suppress(BadMessage):
            parsed = parse_request(whole)
            assert parsed is None or parsed[1] <= len(whole)


def test_more_of_a_head_is_looked_at_without_reading_it_again() -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n"
    assert not check_more(data, 5, 400)
    assert check_more(data + b"\r\n", len(data), 400)
    with pytest.raises(BadMessage):
        check_more(data + b"A: b\n", len(data), 400)
    with pytest.raises(BadMessage):
        check_more(b"GET / " + b"a" * MAX_HEAD, 5, 400)


@pytest.mark.parametrize(
    ("data", "method", "length", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"GET", 5, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"HEAD", 0, True),
        (b"HTTP/1.1 204 No\r\n\r\n", b"GET", 0, True),
        (b"HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n", b"GET", 0, True),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n", b"GET", CHUNKED, True),
        (b"HTTP/1.1 200 \r\n\r\n", b"GET", UNTIL_CLOSE, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", b"GET", 5, False),
        (
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n",
            b"GET",
            5,
            True,
        ),
    ],
)
def test_how_long_a_response_is(data: bytes, method: bytes, length: int, kept: bool) -> None:
    head = response(data, method)
    assert (head.length, head.keep_alive) == (length, kept)


def test_a_response_with_two_lengths_is_read_in_chunks_and_nothing_follows_it() -> None:
    head = response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert head.length == CHUNKED
    assert not head.keep_alive
    assert head.kept_lines() == []


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: y\n\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"<html>hello</html>",
    ],
)
def test_responses_that_are_no_http_are_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_response(data, b"GET")


def test_fields_can_be_changed() -> None:
    head = response(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nB: 2\r\nx-a: 3\r\n\r\n")
    head.set(b"X-A", b"9")
    assert head.kept_lines() == [b"B: 2", b"X-A: 9"]
    assert head.fields[b"x-a"] == b"9"
    head.set(b"X-A", b"10")
    assert head.kept_lines() == [b"B: 2", b"X-A: 10"]
