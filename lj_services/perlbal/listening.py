"""What a service listens on: bound at once, so that a command can say what went wrong."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Final, Protocol

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.tls import Tls
from lj_services.perlbal.values import Listen

if TYPE_CHECKING:
    from lj_services.perlbal.service import Service

BACKLOG: Final = 1024

log = logging.getLogger(__name__)


def bind(listen: Listen, sndbuf: int = 0, *, shared: bool = False) -> socket.socket:
    """A socket that listens.

    Args:
        listen: where; port 0 takes a free one.
        sndbuf: the send buffer of connections, in bytes; 0: the system's.
        shared: whether further sockets may listen on the same address (SO_REUSEPORT).

    Raises:
        OSError: the address can't be bound.
    """
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if sndbuf:
            # Accepted sockets inherit it.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        made.bind((listen.host, listen.port))
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def bind_datagrams(listen: Listen, *, shared: bool = False) -> socket.socket:
    """A socket that takes datagrams.

    Args:
        listen: where; port 0 takes a free one.
        shared: whether further sockets may take some of them (SO_REUSEPORT).

    Raises:
        OSError: the address can't be bound.
    """
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((listen.host, listen.port))
    except OSError:
        made.close()
        raise
    return made


class Served(Protocol):
    """What the loop gives for a socket that it serves."""

    def close(self) -> None:
        """Serve it no more."""


class BoundListener:
    """One socket of a service that is bound, and served from the next turn of the loop on.

    Raises:
        CommandError: the address can't be bound.
    """

    tls: Tls | None = None

    def __init__(self, service: Service) -> None:
        listen = service.parameters.listen
        if listen is None:
            raise CommandError(f"service {service.name} has no address to listen on")
        self.service = service
        self.address = str(listen)
        try:
            self._socket = self.bind(listen)
        except OSError as error:
            raise CommandError(
                f"Can't start service '{service.name}' on {self.address}: {error.strerror}"
            ) from None
        self.port: int = self._socket.getsockname()[1]
        self.fd = self._socket.fileno()
        self._served: Served | None = None
        self._closed = False
        self._starting = asyncio.get_running_loop().create_task(self._start())

    def bind(self, listen: Listen) -> socket.socket:
        """A socket at an address.  Raises OSError."""
        raise NotImplementedError

    async def serve(self) -> Served:
        """Have the loop serve it."""
        raise NotImplementedError

    async def _start(self) -> None:
        served = await self.serve()
        if self._closed:
            served.close()
        else:
            self._served = served

    def another(self) -> socket.socket:
        """The same socket once more: who waits at it is served by whoever has it."""
        return self._socket.dup()

    def close(self) -> None:
        """Listen no more; connections stay."""
        self._closed = True
        if self._served is not None:
            self._served.close()
        elif self._starting.done():
            self._socket.close()

    def __str__(self) -> str:
        return f"listening on {self.address} for service '{self.service.name}'"


class Listener(BoundListener):
    """One listening socket of a service.

    Raises:
        CommandError: the address can't be bound, or certificates can't be used.
    """

    def __init__(self, service: Service) -> None:
        self.tls = Tls(service) if service.parameters.enable_ssl else None
        super().__init__(service)

    def bind(self, listen: Listen) -> socket.socket:
        """A socket that accepts connections: the service's own, if it has one at this address."""
        parameters = self.service.parameters
        now = self.service.listener
        if isinstance(now, Listener) and now.address == self.address:
            return now.another()
        return self.service.balancer.open_socket(listen, parameters.client_sndbuf_size)

    async def serve(self) -> Served:
        """Accept connections for the service's role."""
        role, tls = self.service.role, self.tls
        assert role is not None
        return await asyncio.get_running_loop().create_server(
            role.connection,
            sock=self._socket,
            ssl=None if tls is None else tls.context,
            ssl_handshake_timeout=None if tls is None else tls.patience_s,
            backlog=BACKLOG,
        )
