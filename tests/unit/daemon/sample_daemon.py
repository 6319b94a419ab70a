"""A daemon for the tests of the daemon's manners: echoes lines, and takes its time.

``slow N`` answers after N seconds, ``note`` answers with the setting `motto`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import cast

import click
from pydantic import Field

from lj_services.daemon import (
    ConnectionLimits,
    DaemonSettings,
    ExitCode,
    HostPort,
    run_service,
)
from lj_services.daemon.command import serve_command


class SampleSettings(DaemonSettings):
    listen: HostPort = Field(default=HostPort("127.0.0.1", 7000), description="address")
    motto: str = Field(default="none", description="what `note` answers")


class Connection(asyncio.Protocol):
    def __init__(self, service: SampleService) -> None:
        self.service = service
        self.last_input = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.last_input = asyncio.get_running_loop().time()
        if not self.service.limits.admit(self):
            transport.write(b"too many\n")
            transport.close()

    def data_received(self, data: bytes) -> None:
        self.last_input = asyncio.get_running_loop().time()
        task = asyncio.ensure_future(self.answer(data.strip().decode()))
        self.service.working.add(task)
        task.add_done_callback(self.service.working.discard)

    async def answer(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        if verb == "slow":
            await asyncio.sleep(float(rest))
        text = self.service.settings.motto if verb == "note" else line
        self.transport.write(text.encode() + b"\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self.service.limits.forget(self)

    def close(self) -> None:
        self.transport.close()


class SampleService:
    def __init__(self, settings: SampleSettings) -> None:
        self.settings = settings
        self.limits = ConnectionLimits("sample", settings.max_connections, settings.idle_timeout_s)
        self.working: set[asyncio.Future[None]] = set()
        self.server: asyncio.Server | None = None

    async def start(self) -> None:
        listen = self.settings.listen
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: Connection(self), listen.host, listen.port)

    async def drain(self) -> None:
        assert self.server is not None
        self.server.close()
        while self.working:
            await asyncio.wait(set(self.working))

    async def close(self) -> None:
        if self.server is not None:
            self.server.close()
        self.limits.close_all()

    def reload(self, settings: SampleSettings) -> None:
        self.settings = settings


@serve_command(SampleSettings)
def serve(load: Callable[[], SampleSettings]) -> ExitCode:
    """Echo lines."""
    return run_service("sample", SampleService, load)


@click.group()
def main() -> None:
    """Sample."""


main.add_command(serve)

if __name__ == "__main__":
    sys.exit(main())
