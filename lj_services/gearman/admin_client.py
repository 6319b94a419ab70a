"""Asks a Gearman server what an administrator wants to know: gearmand, Perl's, or the kit's."""

from __future__ import annotations

import socket
from typing import NamedTuple
from urllib.parse import unquote_plus

from lj_services.daemon import HostPort

PIECE = 1 << 16


class AdminRefused(Exception):
    """The server has answered ``ERR``; the message is what it says."""


class FunctionStatus(NamedTuple):
    """A line of ``status``."""

    function: str
    total: int
    running: int
    workers: int


class WorkerStatus(NamedTuple):
    """A line of ``workers``: a connection, whether it works or not."""

    number: str
    address: str
    client_id: str
    functions: tuple[str, ...]


class AdminClient:
    """One connection to a server's administrator's commands; a context manager.

    Args:
        server: its address.
        timeout_s: seconds that connecting, and each read, may take.

    Raises:
        OSError: it can't be reached; from every method, too.
    """

    def __init__(self, server: HostPort, timeout_s: float = 5.0) -> None:
        self._socket = socket.create_connection((server.host, server.port), timeout_s)
        self._received = bytearray()

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def status(self) -> list[FunctionStatus]:
        """All functions, with their jobs and workers."""
        rows = [line.split("\t") for line in self._list("status")]
        return [FunctionStatus(f, int(t), int(r), int(w)) for f, t, r, w in rows]

    def workers(self) -> list[WorkerStatus]:
        """All connections."""
        found = []
        for line in self._list("workers"):
            head, _, functions = line.partition(" :")
            number, address, *rest = head.split(" ", 2)
            client_id = rest[0] if rest else ""
            found.append(WorkerStatus(number, address, client_id, tuple(functions.split())))
        return found

    def drop(self, function: str) -> None:
        """Forget a function.

        Raises:
            AdminRefused: there is none, or it is in use.
        """
        self._do(f"drop function {_word(function)}")

    def cancel(self, handle: str) -> None:
        """Cancel a job that no worker has.

        Raises:
            AdminRefused: there is none, or the server knows no such command.
        """
        self._do(f"cancel job {_word(handle)}")

    def shutdown(self, *, graceful: bool) -> None:
        """End the server, at once or when the running jobs are done.

        Raises:
            AdminRefused: it does not allow that.
        """
        self._do("shutdown graceful" if graceful else "shutdown")

    def _do(self, command: str) -> None:
        self._send(command)
        _checked(self._line())

    def _list(self, command: str) -> list[str]:
        self._send(command)
        lines = []
        while (line := _checked(self._line())) != ".":
            lines.append(line)
        return lines

    def _send(self, command: str) -> None:
        # With a carriage return: gearmand takes a letter of some commands for it.
        self._socket.sendall(command.encode() + b"\r\n")

    def _line(self) -> str:
        while b"\n" not in self._received:
            more = self._socket.recv(PIECE)
            if not more:
                raise ConnectionError("the server closed the connection")
            self._received += more
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return line.rstrip(b"\r").decode(errors="replace")


def _checked(line: str) -> str:
    if line.startswith("ERR "):
        raise AdminRefused(unquote_plus(line[4:]))
    return line


def _word(text: str) -> str:
    """A word of a command.

    Raises:
        ValueError: it is none.
    """
    if not text or any(letter.isspace() for letter in text):
        raise ValueError(f"{text!r} must be one word without blanks")
    return text
