"""A request's body goes to who has its head, and what is left of it to nobody."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.perlbal import (
    LONGEST_WAIT_S,
    Balancer,
    Node,
    Start,
    echoing,
    proxy,
    raw_node,
    read_head,
)
from tests.support.process import wait_for
from tests.support.proxies import KEPT

pytestmark = pytest.mark.faults

EARLY = "  SET buffer_backend_connect = 100\n"
"""A node is asked before the body has come."""
SMUGGLED = b"DELETE /secret HTTP/1.1\r\nHost: inside\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: a\r\n%b\r\n"


@dataclass
class Store:
    """A server that answers when it is told to, and keeps everything that it is sent."""

    address: str = ""
    heard: list[bytes] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def serve(self, connected: socket.socket) -> None:
        self.heard.append(read_head(connected))
        self.asked.set()
        self.go.wait(LONGEST_WAIT_S)
        connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfile!")
        while data := connected.recv(1 << 16):
            self.heard.append(data)
        self.ended.set()


@contextmanager
def storing() -> Iterator[Store]:
    store = Store()
    with raw_node(store.serve) as running:
        store.address = running.address
        yield store


@contextmanager
def answering_early(head: str) -> Iterator[str]:
    """A node that answers as soon as it has a request's head, and reads no more; its address."""

    def script(connected: socket.socket) -> None:
        read_head(connected)
        connected.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{head}\r\n\r\n".encode())
        # To close while something is unread would take the answer back.
        end = select.poll()
        end.register(connected, select.POLLRDHUP)
        end.poll(LONGEST_WAIT_S * 1000)

    with raw_node(script) as running:
        yield running.address


def has_all(balancer: Balancer) -> bool:
    """Whether a client's request is complete, and its answer is not."""
    return any("Client" in line and " wait_res " in line for line in balancer.command("states"))


@pytest.mark.parametrize("named", ["X-REPROXY-URL: http://{}/file", "X-REPROXY-SERVICE: inner"])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_rest_of_a_body_is_no_request_for_who_is_named(
    start_balancer: Start, named: str, chunked: bool
) -> None:
    with storing() as store, answering_early(named.format(store.address)) as node:
        inner = f"CREATE POOL q\n  POOL q ADD {store.address}\n" + (
            "CREATE SERVICE inner\n  SET role = reverse_proxy\n  SET pool = q\nENABLE inner\n"
        )
        settings = KEPT + EARLY + "  SET enable_reproxy = on\n"
        balancer = start_balancer(inner + proxy(node, settings=settings))
        with balancer.talk() as talk:
            if chunked:
                start = b"Transfer-Encoding: chunked\r\n", b"96\r\n%b\r\n" % (b"a" * 150)
                rest = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
            else:
                length = 150 + len(SMUGGLED)
                start = b"Content-Length: %d\r\n" % length, b"a" * 150
                rest = SMUGGLED
            talk.send(POST % (b"/", start[0]) + start[1])
            assert store.asked.wait(LONGEST_WAIT_S)
            talk.send(rest)
            wait_for(lambda: has_all(balancer), "the rest of the body to be read")
            store.go.set()
            assert talk.read().body == b"file!"
        balancer.command_and_go("shutdown")
        assert store.ended.wait(LONGEST_WAIT_S)
        assert len(store.heard) == 1
        line, *fields = store.heard[0].lower().split(b"\r\n")
        assert line.startswith(b"get /")
        assert not any(each.startswith((b"content-length", b"transfer")) for each in fields)


def test_a_connection_goes_on_behind_a_body_that_nobody_wanted(
    start_balancer: Start, node: Node
) -> None:
    with storing() as store, answering_early(f"X-REPROXY-URL: http://{store.address}/") as named:
        settings = KEPT + EARLY + "  SET enable_reproxy = on\n"
        balancer = start_balancer(proxy(named, settings=settings))
        with balancer.talk() as talk:
            talk.send(POST % (b"/", b"Content-Length: 300\r\n") + b"a" * 200)
            assert store.asked.wait(LONGEST_WAIT_S)
            talk.send(b"a" * 100)
            wait_for(lambda: has_all(balancer), "the rest of the body to be read")
            store.go.set()
            assert talk.read().body == b"file!"
            balancer.command(f"pool p remove {named}")
            balancer.command(f"pool p add {node.address}")
            again = talk.ask(POST % (b"/again", b"Content-Length: 2\r\n") + b"hi")
            assert again.json["body"] == "hi"


def test_an_upload_whose_node_names_a_url_gives_back_its_room(
    start_balancer: Start, tmp_path: Path, node: Node
) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    settings = (
        KEPT + "  SET enable_reproxy = on\n  SET buffer_uploads = on\n"
        f"  SET buffer_uploads_path = {folder}\n  SET buffer_uploads_limit = 20m\n"
    )
    body = b"x" * (16 << 20)  # more than sockets take, so that the node has not been given all
    with answering_early(f"X-REPROXY-URL: http://{node.address}/named") as named:
        balancer = start_balancer(proxy(named, settings=settings))
        for _ in range(3):
            with balancer.talk() as talk:
                talk.send(POST % (b"/", b"Content-Length: %d\r\n" % len(body)) + body)
                assert talk.read().json["path"] == "/named"


def test_a_body_in_chunks_outlasts_a_pause(start_balancer: Start, node: Node) -> None:
    config = proxy(node.address, settings=KEPT).replace("  SET listen = 127.0.0.1:PORT\n", "")
    config += (
        "CREATE SERVICE front\n  SET role = selector\n  SET listen = 127.0.0.1:PORT\n"
        "  SET persist_client = on\n  SET latency = 50\n  SET default_service = web\nENABLE front\n"
    )
    with start_balancer(config).talk() as talk:
        told = talk.ask(POST % (b"/1", b"Content-Length: 2\r\n") + b"hi").json
        assert (told["path"], told["body"]) == ("/1", "hi")
        # Now a connection to the node is free, and the request need not wait for one.
        chunked = POST % (b"/2", b"Transfer-Encoding: chunked\r\n")
        told = talk.ask(chunked + b"5\r\nhello\r\n0\r\n\r\n").json
        assert (told["path"], told["body"]) == ("/2", "hello")
        assert talk.ask(POST % (b"/3", b"Content-Length: 0\r\n")).json["path"] == "/3"


def test_who_is_asked_for_a_missing_file_is_told_of_no_body(
    start_balancer: Start, tmp_path: Path
) -> None:
    """Its body was for the web server; without it, the next request would be taken for it."""
    with echoing() as node:
        config = "LOAD lazycdn\n" + proxy(node.address, settings=KEPT).replace(
            "  SET listen = 127.0.0.1:PORT\n", ""
        )
        config += (
            f"CREATE SERVICE files\n  SET role = web_server\n  SET docroot = {tmp_path}\n"
            "  SET listen = 127.0.0.1:PORT\n  SET persist_client = on\n  SET plugins = lazycdn\n"
            "  SET fallback_service = web\nENABLE files\n"
        )
        with start_balancer(config).talk() as talk:
            head = b"GET /missing HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
            told = talk.ask(head).json
            assert told["path"] == "/missing"
            assert "content-length" not in {name.lower() for name, _ in told["headers"]}
            assert talk.ask(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n").json["path"] == "/next"


def test_a_malformed_chunk_puts_nothing_into_a_response_that_has_begun(
    start_balancer: Start,
) -> None:
    def script(connected: socket.socket) -> None:
        read_head(connected)
        connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nbegun")
        while connected.recv(1 << 16):
            pass

    with (
        raw_node(script) as node,
        start_balancer(proxy(node.address, settings=KEPT + EARLY)).talk() as talk,
    ):
        chunked = POST % (b"/", b"Transfer-Encoding: chunked\r\n")
        talk.send(chunked + b"96\r\n%b\r\n" % (b"a" * 150))
        while talk.line() != b"\r\n":
            pass
        talk.send(b"no chunk\r\n")
        assert talk.rest() == b"begun"
