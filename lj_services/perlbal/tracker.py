"""The role ``upload_tracker``: listens on UDP for how far uploads are (`proxy.progress`)."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.service import BaseRole

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service


class UdpListener:
    """One UDP socket of a service.

    Raises:
        CommandError: the address can't be bound.
    """

    tls = None

    def __init__(self, service: Service) -> None:
        listen = service.parameters.listen
        if listen is None:
            raise CommandError(f"service {service.name} has no address to listen on")
        self._name = service.name
        self._balancer = service.balancer
        self.address = str(listen)
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.bind((listen.host, listen.port))
        except OSError as error:
            self._socket.close()
            raise CommandError(
                f"Can't start service '{service.name}' on {self.address}: {error.strerror}"
            ) from None
        self.port: int = self._socket.getsockname()[1]
        self.fd = self._socket.fileno()
        self._transport: asyncio.DatagramTransport | None = None
        self._closed = False
        self._starting = asyncio.get_running_loop().create_task(self._start())

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Heard(self._balancer), sock=self._socket
        )
        if self._closed:
            transport.close()
        else:
            self._transport = transport

    def close(self) -> None:
        """Listen no more."""
        self._closed = True
        if self._transport is not None:
            self._transport.close()
        elif self._starting.done():
            self._socket.close()

    def __str__(self) -> str:
        return f"listening on {self.address} (UDP) for service '{self._name}'"


class _Heard(asyncio.DatagramProtocol):
    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Somebody tells of an upload."""
        self._balancer.uploads.heard(data, self._balancer.now)


class TrackerRole(BaseRole):
    """A service that hears how far uploads are."""

    def listen(self) -> UdpListener:
        """Hear datagrams."""
        return UdpListener(self.service)

    def check(self) -> None:
        """Refuse to be one of several that each hear a part."""
        if self.service.balancer.console_at is not None:
            raise CommandError(
                f"service {self.service.name}: an upload_tracker needs a single process "
                "(--workers 0), for each process would hear of some uploads only"
            )

    def start(self, client: ClientConnection) -> None:
        """A selector has sent somebody here."""
        client.error(404)

    def tick(self, now: float) -> None:
        """Forget old uploads."""
        self.service.balancer.uploads.forget(now)
