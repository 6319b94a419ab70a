"""Clients that attack or dawdle: smuggled requests, heads and bodies without end; ours alone."""

from __future__ import annotations

import pytest

from tests.support.perlbal import (
    Balancer,
    Node,
    Start,
    get,
    proxy,
)
from tests.support.proxies import GET

pytestmark = pytest.mark.faults


SMUGGLED = [
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Content_Length: 5\r\n\r\nhello",
    b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloworld\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("rest", SMUGGLED)
def test_a_smuggled_request_reaches_no_node(kept: Balancer, node: Node, rest: bytes) -> None:
    with kept.talk() as talk:
        talk.send(b"POST /outer HTTP/1.1\r\nHost: a\r\n" + rest + GET % (b"/smuggled", b""))
        answer = talk.read()
        assert answer.status in (400, 501)
        assert answer.fields["connection"] == "close"
        assert talk.closed
    assert "/smuggled" not in node.seen()
    assert get(kept.port, "/after").status == 200


def test_a_head_that_never_ends_is_given_up(start_balancer: Start, node: Node) -> None:
    balancer = start_balancer(proxy(node.address, settings="  SET idle_timeout = 1\n"))
    with balancer.talk() as talk:
        talk.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        assert talk.read().status == 408
        assert talk.closed
    with balancer.talk() as talk:
        assert talk.closed
    with balancer.talk() as talk:
        talk.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        assert talk.closed


def test_too_long_heads_are_refused(kept: Balancer) -> None:
    with kept.talk() as talk:
        talk.send(GET[:-4] % b"/" + b"X: " + b"x" * 70_000)
        assert talk.read().status == 431
    with kept.talk() as talk:
        talk.send(b"GET /" + b"x" * 20_000)
        assert talk.read().status == 414


def test_a_chunked_body_over_the_limit_is_refused(start_balancer: Start, node: Node) -> None:
    settings = "  SET max_chunked_request_size = 10k\n"
    balancer = start_balancer(proxy(node.address, settings=settings))
    with balancer.talk() as talk:
        talk.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        talk.send(b"2801\r\n" + b"x" * 0x2801)
        assert talk.read().status == 413
        assert talk.closed


def test_error_pages_escape_what_they_show(kept: Balancer) -> None:
    with kept.talk() as talk:
        answer = talk.ask(b"GET /<script> HTTP/1.1\r\nHost: <script>\r\n\r\n")
        assert answer.status == 400
        assert b"<script>" not in answer.body
