"""A running ``lj gearman serve`` for tests, and conversations with it by hand."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from lj_services.gearman.protocol import Line, Magic, Packet, PacketParser, PacketType, request
from tests.support.servers import LONGEST_WAIT_S, LocalServer, start_server


class GearmanServer(LocalServer):
    """A running Gearman server."""

    def connect(self) -> Talk:
        """A new connection."""
        return Talk(socket.create_connection(("127.0.0.1", self.port), LONGEST_WAIT_S))

    def ask(self, command: bytes) -> bytes:
        """What one administrator's command is answered with."""
        with self.connect() as talk:
            return talk.ask(command)


class Talk:
    """One connection, spoken by hand."""

    def __init__(self, connected: socket.socket) -> None:
        # Two packets in a row must not wait for each other.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connected
        self._parser = PacketParser(Magic.RESPONSE)

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()

    def send(self, kind: PacketType, *args: bytes) -> None:
        self.socket.sendall(request(kind, *args))

    def read(self) -> Packet:
        """The next packet."""
        while (got := self._parser.next()) is None:
            more = self.socket.recv(1 << 16)
            assert more, "connection closed"
            self._parser.feed(more)
        assert not isinstance(got, Line)
        return got

    def expect(self, kind: PacketType, *args: bytes) -> tuple[bytes, ...]:
        """The next packet's arguments, which must be of `kind` and start with `args`."""
        got = self.read()
        assert (got.type, got.args[: len(args)]) == (kind, args)
        return got.args

    def call(self, kind: PacketType, *args: bytes, then: PacketType) -> tuple[bytes, ...]:
        """Send a packet; the arguments of the answer, which must be of kind `then`."""
        self.send(kind, *args)
        return self.expect(then)

    def settle(self) -> None:
        """Return when the server has carried out what was sent, and had nothing to say."""
        self.call(PacketType.ECHO_REQ, b"settled", then=PacketType.ECHO_RES)

    def ask(self, command: bytes) -> bytes:
        """Send a line; all of the answer: a list up to its dot, or a line."""
        self.socket.sendall(command + b"\n")
        answer = b""
        while not (answer.endswith((b"\n.\n", b"\r\n")) or answer == b".\n"):
            if answer.startswith(b"OK") and answer.endswith(b"\n"):
                break
            more = self.socket.recv(1 << 16)
            assert more, f"connection closed after {answer!r}"
            answer += more
        return answer

    @property
    def closed(self) -> bool:
        """Whether the server closes the connection; waits until it says or does something."""
        try:
            return self.socket.recv(1, socket.MSG_PEEK) == b""
        except ConnectionResetError:
            return True


class Start(Protocol):
    """What the fixture is: starts a server of its own with these settings."""

    def __call__(self, *settings: str) -> GearmanServer: ...


@pytest.fixture
def gearman_server(tmp_path: Path) -> Iterator[Start]:
    """Starts ``lj gearman serve``; settings are words for ``--set`` (``job_retries=2``)."""
    with ExitStack() as stack:

        def start(*settings: str) -> GearmanServer:
            started = start_server("gearman", tmp_path, stack, *settings)
            return GearmanServer(started.port, started.running)

        yield start
