"""What nodes read of what is passed on: never more, or other, requests than the balancer did.

Requests are made of parts that parsers are known to disagree about, and cut and changed at
random.  What the balancer's parsers let through is written as a node would be sent it, and read
by three programs that others wrote: h11, llhttp (Node.js's parser, and that of the sample
site's server) and Python's http.server.  A node may refuse what it is sent; what it reads, it
must read as the balancer did.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any, NamedTuple

import h11
import httptools
import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from lj_services.perlbal.http.chunked import LAST_CHUNK, ChunkDecoder, chunk
from lj_services.perlbal.http.errors import BadMessage
from lj_services.perlbal.http.head import CHUNKED
from lj_services.perlbal.http.parse import parse_request
from lj_services.perlbal.parameters import Parameters
from lj_services.perlbal.proxy.headers import head_for_node, lines_for_node

pytestmark = pytest.mark.unit


class Request(NamedTuple):
    """What a program has made of some bytes."""

    method: bytes
    target: bytes
    body: bytes


# -- the balancer's view ------------------------------------------------------------

_SERVICE: Any = SimpleNamespace(parameters=Parameters(), insert=[], remove=[])
_CLIENT: Any = SimpleNamespace(peer="192.0.2.1")


def passed_on(data: bytes) -> tuple[list[Request], bytes]:
    """The requests that are passed on, and the bytes that one connection to a node gets."""
    requests: list[Request] = []
    written: list[bytes] = []
    try:
        while (parsed := parse_request(data)) is not None:
            head, used = parsed
            data = data[used:]
            if head.length == CHUNKED:
                decoder = ChunkDecoder(400)
                body = decoder.feed(data)
                if not decoder.done:
                    break
                data = decoder.rest
                framed = (chunk(body) if body else b"") + LAST_CHUNK
            else:
                if len(data) < head.length:
                    break
                body = framed = data[: head.length]
                data = data[head.length :]
            lines = lines_for_node(_CLIENT, head, _SERVICE)
            written.append(head_for_node(head, lines, persist=True, body=None) + framed)
            requests.append(Request(head.method, head.target, body))
            if head.upgrade:
                break  # what follows is another protocol, if the node agrees
    except BadMessage:
        pass
    return requests, b"".join(written)


# -- the nodes' views ---------------------------------------------------------------


def h11_reads(data: bytes) -> tuple[list[Request], bool]:
    """What h11 reads, and whether it has refused something."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    requests: list[Request] = []
    head: h11.Request | None = None
    body = b""
    try:
        while True:
            got = connection.next_event()
            if got is h11.NEED_DATA or got is h11.PAUSED:
                return requests, False
            if isinstance(got, h11.Request):
                head, body = got, b""
            elif isinstance(got, h11.Data):
                body += got.data
            elif isinstance(got, h11.ConnectionClosed):
                return requests, True
            elif isinstance(got, h11.EndOfMessage):
                assert head is not None
                requests.append(Request(head.method, head.target, body))
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return requests, True  # it closes
                connection.start_next_cycle()
    except h11.RemoteProtocolError:
        return requests, True


class _Listener:
    """What llhttp calls."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.parser: Any = None
        self._target = b""
        self._body = b""

    def on_message_begin(self) -> None:
        self._target, self._body = b"", b""

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.requests.append(Request(self.parser.get_method(), self._target, self._body))


def llhttp_reads(data: bytes) -> tuple[list[Request], bool]:
    """What llhttp reads, and whether it has refused something."""
    listener = _Listener()
    listener.parser = httptools.HttpRequestParser(listener)
    try:
        listener.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return listener.requests, False
    except httptools.HttpParserError:
        return listener.requests, True
    return listener.requests, False


class _Handler(BaseHTTPRequestHandler):
    """Reads bodies as programs do that are built on http.server."""

    protocol_version = "HTTP/1.1"

    def __init__(self, data: bytes) -> None:
        self.rfile = io.BytesIO(data)
        self.wfile = io.BytesIO()
        self.client_address = ("192.0.2.9", 1)
        self.requests: list[Request] = []
        self.refused = False
        self.close_connection = False
        while not self.close_connection and self.rfile.tell() < len(data):
            self.handle_one_request()

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._take
        raise AttributeError(name)

    def _take(self) -> None:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = self.requestline.split(" ")[1]
        read = Request(self.command.encode("latin-1"), target.encode("latin-1"), body)
        self.requests.append(read)

    def send_error(self, *_words: object, **_more: object) -> None:
        self.refused = True
        self.close_connection = True

    def log_message(self, *_words: object) -> None:
        """Nothing is logged."""


def http_server_reads(data: bytes) -> tuple[list[Request], bool]:
    """What http.server reads, and whether it has refused something."""
    handler = _Handler(data)
    return handler.requests, handler.refused or handler.close_connection


READERS = (h11_reads, llhttp_reads, http_server_reads)


# -- requests -----------------------------------------------------------------------

METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"OPTIONS", b"get", b"PRI", b"G\x00"])
TARGETS = st.sampled_from(
    [b"/", b"*", b"/a?b=c", b"http://other/x", b"//x", b"/%0d%0aX:", b"/\xe9", b"/ HTTP/1.1", b"a"]
)
VERSIONS = st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/0.9", b"http/1.1"])
INNER = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
LINES = st.sampled_from(
    [
        b"Content-Length: 0",
        b"Content-Length: 5",
        b"Content-Length: %d" % len(INNER),
        b"content-length:5",
        b"Content-Length: 5, 5",
        b"Content-Length: 05",
        b"Content-Length: +5",
        b"Content-Length : 5",
        b"Content_Length: 5",
        b"Transfer-Encoding: chunked",
        b"transfer-encoding:CHUNKED",
        b"Transfer-Encoding: \tchunked ",
        b"Transfer-Encoding: identity, chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding:\x0bchunked",
        b"Transfer-Encoding\x00: chunked",
        b"Transfer_Encoding: chunked",
        b" Transfer-Encoding: chunked",
        b"X: 1\r\n folded",
        b"X: 1\nTransfer-Encoding: chunked",
        b"X: 1\rContent-Length: 5",
        b"X: \xc2\x85Content-Length: 5",
        b"X: \x85\x0c\x1cContent-Length: 5",
        b"X\xff: 1",
        b": 1",
        b"X",
        b"Connection: close, content-length",
        b"Connection: transfer-encoding",
        b"Connection: keep-alive, host",
        b"Trailer: Content-Length",
        b"TE: trailers",
        b"Expect: 100-continue",
        b"Upgrade: websocket\r\nConnection: Upgrade",
        b"Keep-Alive: 5",
        b"X-Forwarded-For: 1\r\nX-Forwarded-For: 2",
        b"Host: b",
    ]
)
BODIES = st.sampled_from(
    [
        b"",
        b"hello",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;a=b\r\nhello\r\n0;x\r\nContent-Length: 5\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"05\r\nhello\r\n000\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5 ;\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n X: y\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER),
        INNER,
    ]
)
ENDS = st.sampled_from([b"\r\n"] * 40 + [b"\n", b"\r", b"\r\r\n"])


@st.composite
def one(draw: st.DrawFn) -> bytes:
    """One request, good or bad."""
    parts = [draw(METHODS), b" ", draw(TARGETS), b" ", draw(VERSIONS), b"\r\n"]
    for line in [b"Host: a", *draw(st.lists(LINES, max_size=2))]:
        parts += [line, draw(ENDS)]
    return b"".join([*parts, b"\r\n", draw(BODIES)])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Several requests; bytes of them are changed."""
    data = bytearray(b"".join(draw(st.lists(one(), min_size=1, max_size=3))))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        place = draw(st.integers(0, len(data) - 1))
        count = draw(st.integers(0, 1))
        data[place : place + count] = draw(
            st.sampled_from([b"", b" ", b"\t", b"\r", b"\n", b"\r\n", b"\x00", b"\x85", b":", b"0"])
        )
    return bytes(data)


@given(streams())
@example(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
@example(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 36\r\n\r\n" + INNER + INNER)
@example(b"GET / HTTP/1.1\r\nHost: a\r\nX: \x85Content-Length: 5\r\n\r\n" + INNER)
def test_no_node_reads_other_requests_than_were_passed_on(data: bytes) -> None:
    requests, written = passed_on(data)
    event(f"{len(requests)} passed on")
    for reads in READERS:
        read, refused = reads(written)
        assert read == requests[: len(read)], reads.__name__
        assert refused or len(read) == len(requests), reads.__name__


@pytest.mark.parametrize("reads", READERS)
def test_what_is_good_is_read_by_all(reads: Callable[[bytes], tuple[list[Request], bool]]) -> None:
    """So that the test above is about requests that arrive."""
    data = (
        b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        b"PUT /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nworld" + INNER
    )
    requests, written = passed_on(data)
    assert reads(written) == (
        [
            Request(b"POST", b"/a", b"hello"),
            Request(b"PUT", b"/b", b"world"),
            Request(b"GET", b"/smuggled", b""),
        ],
        False,
    )
    assert len(requests) == 3


@pytest.mark.parametrize("reads", READERS)
def test_a_reader_that_is_fooled_is_noticed(
    reads: Callable[[bytes], tuple[list[Request], bool]],
) -> None:
    """The views are views: what is not passed on as it came would be two requests to them."""
    assert len(reads(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" + INNER)[0]) == 2
