"""The connection to one job server for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Self

from lj_services.daemon import HostPort
from lj_services.gearman.client_errors import ConnectionLost, ServerUnreachable
from lj_services.gearman.connection import Wire, tune
from lj_services.gearman.protocol import Outgoing, Packet, PacketType

_READ = 1 << 16


class AsyncConnection(Wire):
    """One connection; made by `open`, used by tasks of one event loop."""

    def __init__(
        self, server: HostPort, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        super().__init__(server)
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, server: HostPort, connect_timeout_s: float) -> Self:
        """Connect.

        Raises:
            ServerUnreachable: nothing listens there, or not within the time.
        """
        try:
            async with asyncio.timeout(connect_timeout_s):
                reader, writer = await asyncio.open_connection(
                    server.host, server.port, limit=_READ
                )
        except OSError as error:
            why = "no connection in time" if isinstance(error, TimeoutError) else error
            raise ServerUnreachable(f"job server {server}: {why}") from None
        tune(writer.get_extra_info("socket"))
        return cls(server, reader, writer)

    def put(self, kind: PacketType, *args: bytes) -> None:
        """Send a packet, or keep it until the network takes it; see `drain`.

        Raises:
            BadTask: there is no such packet, for instance because it is too large.
        """
        self._writer.write(self.packed(kind, *args))

    def put_all(self, packets: Iterable[Outgoing]) -> None:
        """Send many packets as one piece, as `put`.

        Raises:
            BadTask: one of them can't be.
        """
        if data := b"".join(self.packed(kind, *args) for kind, args in packets):
            self._writer.write(data)

    async def drain(self, timeout_s: float) -> None:
        """Wait while much is kept.

        Raises:
            ConnectionLost: the server is gone, or took nothing for `timeout_s` seconds.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._writer.drain()
        except TimeoutError:
            raise ConnectionLost(
                f"job server {self.server} took nothing for {timeout_s:g} s"
            ) from None
        except OSError as error:
            raise ConnectionLost(f"job server {self.server}: {error}") from None

    async def receive(self) -> list[Packet]:
        """Wait for bytes; the packets that are whole with them, often none.

        Raises:
            ConnectionLost: the server closed the connection.
            BadAnswer: it sends what is no packet.
        """
        try:
            data = await self._reader.read(_READ)
        except OSError as error:
            raise ConnectionLost(f"job server {self.server}: {error}") from None
        self.feed(data)
        return list(self.packets())

    def close(self) -> None:
        """Close; the server then gives up what this peer asked for, or gives it to others."""
        self._writer.close()
