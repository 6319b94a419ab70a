"""EchoService: a role that sends lines back; the smallest example of a role of a plug-in's own.

::

    LOAD echoservice
    CREATE SERVICE echo
      SET role       = echo
      SET listen     = 127.0.0.1:8007
      SET echo_delay = 1               # seconds
    ENABLE echo

Source: Perlbal::Plugin::EchoService of Perlbal 1.80.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from lj_services.perlbal.plugin import Plugin
from lj_services.perlbal.service import BaseRole
from lj_services.perlbal.tunables import Tunable
from lj_services.perlbal.values import INT

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service

LONGEST_LINE: Final = 8192
MOST_WAITING: Final = 1000
"""Lines of one client that wait for their time; then nothing is read from it."""


class EchoRole(BaseRole):
    """A service that sends lines back."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.connections: set[EchoConnection] = set()

    def start(self, client: ClientConnection) -> None:
        """It speaks no HTTP: a selector can't give it requests."""
        client.error(501, "An echo service is no web server.")

    def connection(self) -> asyncio.BaseProtocol:
        """A protocol for lines."""
        return EchoConnection(self)

    def tick(self, now: float) -> None:
        """Cut off who has been silent for ``idle_timeout``."""
        before = now - self.service.parameters.idle_timeout
        for connection in [each for each in self.connections if each.last_input < before]:
            connection.close()

    def close(self) -> None:
        """Cut everybody off."""
        for connection in list(self.connections):
            connection.close()


class EchoConnection(asyncio.Protocol):
    """One client that hears what it says."""

    def __init__(self, role: EchoRole) -> None:
        self._role = role
        self._balancer = role.service.balancer
        self._transport: asyncio.Transport | None = None
        self.last_input = self._balancer.now
        self._partial = b""
        self._waiting = 0
        self._full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it in."""
        self._transport = cast("asyncio.Transport", transport)
        if self._balancer.limits.admit(self):
            self._role.connections.add(self)
        else:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it out."""
        self._transport = None
        self._role.connections.discard(self)
        self._balancer.limits.forget(self)

    def data_received(self, data: bytes) -> None:
        """Lines, or parts of them."""
        self.last_input = self._balancer.now
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            if line.rstrip(b"\r"):
                self._echo(line.rstrip(b"\r") + b"\r\n")
        if len(self._partial) > LONGEST_LINE and self._transport is not None:
            self._transport.abort()

    def _echo(self, line: bytes) -> None:
        delay = self._role.service.parameters["echo_delay"]
        if not delay:
            self._write(line)
            return
        self._waiting += 1
        asyncio.get_running_loop().call_later(delay, self._write_later, line)
        self._listen()

    def _write_later(self, line: bytes) -> None:
        self._waiting -= 1
        self._write(line)
        self._listen()

    def _write(self, line: bytes) -> None:
        if self._transport is not None:
            self._transport.write(line)

    def pause_writing(self) -> None:
        """It does not read: hear no more."""
        self._full = True
        self._listen()

    def resume_writing(self) -> None:
        """It has read."""
        self._full = False
        self._listen()

    def _listen(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._full or self._waiting >= MOST_WAITING:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def close(self) -> None:
        """Cut it off."""
        if self._transport is not None:
            self._transport.abort()


class EchoService(Plugin):
    """The plug-in."""

    title = "EchoService"

    def __init__(self) -> None:
        super().__init__()
        self.roles = {"echo": EchoRole}
        self.tunables = (
            Tunable(
                "echo_delay",
                INT,
                0,
                "how long a line waits before it is sent back",
                "echo",
                "seconds",
            ),
        )


plugin = EchoService()
"""What LOAD takes; each balancer of a process shares it."""
