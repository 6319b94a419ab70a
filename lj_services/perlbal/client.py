"""What other programs speak to a balancer's console with: ours, or Perl's.

::

    with ConsoleClient(HostPort.parse("127.0.0.1:60000")) as console:
        console.run("POOL webs REMOVE 10.0.0.7:8080")
        for line in console.run("show pool webs"):
            print(line)

An answer has one line, or many and a dot, and nothing says beforehand which.  So a command
that cannot exist is sent behind each, and what comes before its refusal is the answer.
"""

from __future__ import annotations

import secrets
import socket

from lj_services.daemon import HostPort
from lj_services.perlbal.errors import PerlbalError


class Refused(PerlbalError):
    """The balancer refuses a command; the text is its reason."""


class ConsoleClient:
    """One connection to a console.

    Args:
        address: of a service with the role ``management``.
        timeout_s: how long an answer may take, in seconds.

    Raises:
        OSError: it can't be connected to.
    """

    def __init__(self, address: HostPort, timeout_s: float = 10.0) -> None:
        self._socket = socket.create_connection((address.host, address.port), timeout_s)
        self._answers = self._socket.makefile("r", encoding="utf-8", newline="\n")

    def __enter__(self) -> ConsoleClient:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._answers.close()
        self._socket.close()

    def run(self, line: str) -> list[str]:
        """What the balancer answers to a line, without the dot and without ``OK``.

        Raises:
            Refused: it answers ``ERROR``.
            ConnectionError: it hangs up, as it does at the end of ``SHUTDOWN``.
            ValueError: `line` is more than a line.
            OSError: it does not answer.
        """
        if "\n" in line or "\r" in line:
            raise ValueError("a command is one line")
        nonsense = f"end{secrets.token_hex(8)}"
        self._socket.sendall(f"{line}\r\n{nonsense}\r\n".encode())
        lines = []
        while not (answer := self._line()).endswith(nonsense):
            lines.append(answer)
        if lines and lines[-1].startswith("ERROR: "):
            raise Refused(lines[-1].removeprefix("ERROR: "))
        if lines and lines[-1] in (".", "OK"):
            lines.pop()
        return lines

    def _line(self) -> str:
        line = self._answers.readline()
        if not line:
            raise ConnectionResetError("the balancer has hung up")
        return line.rstrip("\r\n")
