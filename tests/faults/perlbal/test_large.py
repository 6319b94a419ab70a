"""Bodies of more than 4 GiB, both ways, in memory that does not grow."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.perlbal import Balancer, RawNode, Start, proxy, raw_node, read_head

pytestmark = pytest.mark.faults

SIZE = (4 << 30) + 4321
PIECE = memoryview(bytes(4 << 20))
MOST_GROWN = 24 << 20
"""Bytes that a balancer may grow by."""


def take(connected: socket.socket) -> int:
    """Read until the end; how much it was."""
    room = bytearray(1 << 20)
    taken = 0
    while count := connected.recv_into(room):
        taken += count
    return taken


def swallow(connected: socket.socket) -> None:
    """A node that counts what it is sent, or sends as much as it is asked for."""
    head = read_head(connected)
    if head.startswith(b"GET"):
        connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        give(connected)
        return
    told = re.search(rb"Content-Length: (\d+)", head)
    assert told is not None
    room = bytearray(1 << 20)
    left = int(told[1]) - (len(head) - head.index(b"\r\n\r\n") - 4)
    while left > 0 and (count := connected.recv_into(room)):
        left -= count
    body = b"%d" % (int(told[1]) - left)
    connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def give(connected: socket.socket) -> None:
    left = SIZE
    while left:
        piece = PIECE[: min(left, len(PIECE))]
        connected.sendall(piece)
        left -= len(piece)


class Growth:
    """How much a process has grown since it was looked at first."""

    def __init__(self, balancer: Balancer) -> None:
        self._process = psutil.Process(balancer.running.pid)
        self._before = self._process.memory_info().rss
        self.most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Growth:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.most = max(self.most, self._process.memory_info().rss - self._before)


@pytest.fixture
def node() -> Iterator[RawNode]:
    with raw_node(swallow) as running:
        yield running


def test_an_upload_and_a_download_of_more_than_4_gib(start_balancer: Start, node: RawNode) -> None:
    balancer = start_balancer(proxy(node.address))
    with Growth(balancer) as growth, balancer.talk() as talk:
        talk.send(b"PUT /up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SIZE)
        give(talk.socket)
        assert talk.read().body == b"%d" % SIZE
    assert growth.most < MOST_GROWN
    with Growth(balancer) as growth, balancer.talk() as talk:
        talk.send(b"GET /down HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head = read_head(talk.socket)
        assert b"Content-Length: %d\r\n" % SIZE in head
        body = len(head) - head.index(b"\r\n\r\n") - 4
        assert take(talk.socket) + body == SIZE
    assert growth.most < MOST_GROWN


def test_a_file_of_more_than_4_gib_and_its_end(start_balancer: Start, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with (root / "large").open("wb") as file:
        file.truncate(SIZE - 3)
        file.seek(0, 2)
        file.write(b"end")
    balancer = start_balancer(
        f"CREATE SERVICE web\n  SET role = web_server\n  SET docroot = {root}\n"
        "  SET listen = 127.0.0.1:PORT\nENABLE web\n"
    )
    request = b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%b\r\n"
    with balancer.talk() as talk:
        answer = talk.ask(request % b"Range: bytes=%d-\r\n" % (SIZE - 5))
        assert (answer.status, answer.body) == (206, b"\0\0end")
        assert answer.fields["content-range"] == f"bytes {SIZE - 5}-{SIZE - 1}/{SIZE}"
    with Growth(balancer) as growth, balancer.talk() as talk:
        talk.send(request % b"")
        head = read_head(talk.socket)
        body = len(head) - head.index(b"\r\n\r\n") - 4
        assert take(talk.socket) + body == SIZE
    assert growth.most < MOST_GROWN
