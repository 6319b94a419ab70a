"""A daemon for the tests of the daemon's manners: echoes lines, and takes its time.

``slow N`` answers after N seconds, ``note`` answers with the setting `motto`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import click
from pydantic import Field

from lj_services.daemon import (
    DaemonSettings,
    ExitCode,
    HostPort,
    TcpConnection,
    TcpService,
    run_service,
)
from lj_services.daemon.command import serve_command


class SampleSettings(DaemonSettings):
    listen: HostPort = Field(default=HostPort("127.0.0.1", 7000), description="address")
    motto: str = Field(default="none", description="what `note` answers")


class Connection(TcpConnection):
    def __init__(self, service: SampleService) -> None:
        super().__init__(service)
        self.service = service

    def turned_away(self) -> None:
        self._transport.write(b"too many\n")

    def data_received(self, data: bytes) -> None:
        self.last_input = self.service.now()
        task = asyncio.ensure_future(self.answer(data.strip().decode()))
        self.service.working.add(task)
        task.add_done_callback(self.service.working.discard)

    def work(self) -> None:
        """Nothing waits: lines are answered by tasks of their own."""

    async def answer(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        if verb == "slow":
            await asyncio.sleep(float(rest))
        text = self.service.settings.motto if verb == "note" else line
        self._transport.write(text.encode() + b"\n")


class SampleService(TcpService[SampleSettings]):
    def __init__(self, settings: SampleSettings) -> None:
        super().__init__("sample", settings)
        self.working: set[asyncio.Future[None]] = set()

    def make_connection(self) -> Connection:
        return Connection(self)

    async def settle(self) -> None:
        while self.working:
            await asyncio.wait(set(self.working))


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
