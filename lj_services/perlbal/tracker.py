"""The role ``upload_tracker``: listens on UDP for how far uploads are (`proxy.progress`)."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from lj_services.perlbal.bus import Said
from lj_services.perlbal.listening import BoundListener, Served
from lj_services.perlbal.proxy.progress import TOLD, TOPIC
from lj_services.perlbal.service import BaseRole
from lj_services.perlbal.values import Listen

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.frontend import ClientConnection


class UdpListener(BoundListener):
    """One UDP socket of a service.

    Raises:
        CommandError: the address can't be bound.
    """

    def bind(self, listen: Listen) -> socket.socket:
        """A socket that takes datagrams."""
        return self.service.balancer.open_datagrams(listen)

    async def serve(self) -> Served:
        """Hear what comes."""
        balancer = self.service.balancer
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Heard(balancer), sock=self._socket
        )
        return transport


class _Heard(asyncio.DatagramProtocol):
    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Somebody tells of an upload; all processes are asked about it by browsers."""
        if TOLD.fullmatch(data) is not None:
            self._balancer.bus.say(Said(TOPIC, data.decode()))


class TrackerRole(BaseRole):
    """A service that hears how far uploads are."""

    def listen(self) -> UdpListener:
        """Hear datagrams."""
        return UdpListener(self.service)

    def start(self, client: ClientConnection) -> None:
        """A selector has sent somebody here."""
        client.error(404)

    def tick(self, now: float) -> None:
        """Forget old uploads."""
        self.service.balancer.uploads.forget(now)
