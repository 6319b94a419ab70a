"""A Gearman server without sockets: its connections on transports of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import cast

from lj_services.gearman.config import ServerSettings
from lj_services.gearman.server import GearmanService
from lj_services.gearman.server_connection import Connection


class Transport:
    """A transport that takes everything, and notes in `log` what it was given."""

    def __init__(self, name: str, log: list[tuple[str, bytes]]) -> None:
        self.name, self.log = name, log
        self.reading, self.closing = True, False

    def get_extra_info(self, _: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes | memoryview) -> None:
        assert not self.closing
        self.log.append((self.name, bytes(data)))

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closing = True


class House:
    """A server without sockets, and what its connections were given to write."""

    def __init__(self) -> None:
        self.service = GearmanService(ServerSettings())
        self.log: list[tuple[str, bytes]] = []

    def connect(self, name: str) -> tuple[Connection, Transport]:
        transport = Transport(name, self.log)
        connection = self.service.make_connection()
        connection.connection_made(cast(asyncio.BaseTransport, transport))
        return connection, transport

    def written(self, name: str) -> bytes:
        return b"".join(data for who, data in self.log if who == name)


def in_a_house(
    test: Callable[[House], Coroutine[None, None, None]],
) -> Callable[[], None]:
    """Run a test in an event loop of its own."""

    async def run() -> None:
        await test(House())

    def call() -> None:
        asyncio.run(run())

    call.__doc__ = test.__doc__
    return call
