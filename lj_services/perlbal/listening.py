"""What a service listens on: bound at once, so that a command can say what went wrong."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any, Final

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


class Listener:
    """One listening socket of a service.

    Raises:
        CommandError: the address can't be bound, or certificates can't be used.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        parameters = service.parameters
        listen = parameters.listen
        if listen is None or service.role is None:
            raise CommandError(f"service {service.name} has no address to listen on")
        self.address = str(listen)
        self.tls = Tls(service) if parameters.enable_ssl else None
        try:
            self._socket = service.balancer.open_socket(listen, parameters.client_sndbuf_size)
        except OSError as error:
            raise CommandError(
                f"Can't start service '{service.name}' on {self.address}: {error.strerror}"
            ) from None
        self.port: int = self._socket.getsockname()[1]
        self.fd = self._socket.fileno()
        self._server: asyncio.AbstractServer | None = None
        self._closed = False
        self._starting = asyncio.get_running_loop().create_task(self._start(service.role))

    async def _start(self, role: Any) -> None:
        tls = self.tls
        server = await asyncio.get_running_loop().create_server(
            role.connection,
            sock=self._socket,
            ssl=None if tls is None else tls.context,
            ssl_handshake_timeout=None if tls is None else tls.patience_s,
            backlog=BACKLOG,
        )
        if self._closed:
            server.close()
        else:
            self._server = server

    def close(self) -> None:
        """Listen no more; connections stay."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        elif self._starting.done():
            self._socket.close()

    def __str__(self) -> str:
        return f"listening on {self.address} for service '{self.service.name}'"
