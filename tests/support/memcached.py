"""Running memcached servers for tests: the real one and the kit's own.

``real_memcached()`` and ``our_memcached()`` give a running server.  Called twice
with the same settings they give the same server, emptied; ``fresh=True`` starts
one that no other test sees, for tests that kill it, fill it or count its memory.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

import pytest

from tests.support.process import accepts, free_port, spawn
from tests.support.servers import LONGEST_WAIT_S, LocalServer, serve_command


class MemcachedServer(LocalServer):
    """A running memcached server."""

    def connect(self) -> Conversation:
        """A new connection."""
        return Conversation(socket.create_connection(("127.0.0.1", self.port), LONGEST_WAIT_S))

    def exchange(self, data: bytes) -> bytes:
        """Send `data` on a new connection, end it, and return all that comes back."""
        with self.connect() as conversation:
            with suppress(OSError):  # who is refused in the middle is hung up on
                conversation.send(data)
                conversation.socket.shutdown(socket.SHUT_WR)
            return conversation.rest()

    def stats(self, *words: str) -> dict[str, str]:
        """The table that ``stats`` with `words` gives."""
        command = " ".join(["stats", *words]).encode()
        with self.connect() as conversation:
            reply = conversation.ask(command + b"\r\n", until=b"END\r\n").decode()
        rows = [line.split(" ", 2) for line in reply.splitlines() if line.startswith("STAT ")]
        return {name: value for _, name, value in rows}


class Conversation:
    """One connection to a server, spoken by hand."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.received = b""

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, data: bytes, until: bytes = b"\r\n") -> bytes:
        """Send `data`; return what comes, up to and with the first `until`."""
        self.send(data)
        return self.read(until)

    def read(self, until: bytes = b"\r\n") -> bytes:
        """What comes, up to and with the first `until`."""
        while until not in self.received:
            more = self.socket.recv(1 << 16)
            assert more, f"connection closed after {self.received!r}"
            self.received += more
        end = self.received.index(until) + len(until)
        reply, self.received = self.received[:end], self.received[end:]
        return reply

    def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        pieces = [self.received]
        with suppress(ConnectionResetError):  # what was sent and not read makes of a close a reset
            while more := self.socket.recv(1 << 16):
                pieces.append(more)
        return b"".join(pieces)

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection; waits for it to say something."""
        return self.socket.recv(1, socket.MSG_PEEK) == b""


class Start(Protocol):
    """What the fixtures are: gives a running server."""

    def __call__(self, *settings: str, fresh: bool = False) -> MemcachedServer: ...


def _starter(
    argv: Callable[[int, tuple[str, ...]], list[str]], folder: Path, stack: ExitStack
) -> Start:
    shared: dict[tuple[str, ...], MemcachedServer] = {}

    def start(*settings: str, fresh: bool = False) -> MemcachedServer:
        if not fresh and settings in shared:
            server = shared[settings]
            server.exchange(b"flush_all\r\nverbosity 0\r\n")
            return server
        port = free_port()
        log = folder / f"{port}.log"
        running = stack.enter_context(spawn(argv(port, settings), log, ready=lambda: accepts(port)))
        server = MemcachedServer(port, running)
        if not fresh:
            shared[settings] = server
        return server

    return start


@pytest.fixture(scope="session")
def real_memcached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts Debian's memcached with one thread; settings are its options (``-m 64``)."""

    def argv(port: int, settings: tuple[str, ...]) -> list[str]:
        words = [word for setting in settings for word in setting.split()]
        return ["memcached", "-u", "root", "-l", "127.0.0.1", "-p", str(port), "-t", "1", *words]

    with ExitStack() as stack:
        yield _starter(argv, tmp_path_factory.mktemp("memcached"), stack)


@pytest.fixture(scope="session")
def our_memcached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts ``lj memcached serve``; settings are words for ``--set`` (``memory_limit=8m``)."""

    def argv(port: int, settings: tuple[str, ...]) -> list[str]:
        return serve_command("memcached", port, *settings)

    with ExitStack() as stack:
        yield _starter(argv, tmp_path_factory.mktemp("lj-memcached"), stack)
