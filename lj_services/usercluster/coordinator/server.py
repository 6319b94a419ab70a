"""The coordinator's daemon: connections in, lines to the console, replies out.

Each connection's requests are answered one after the other, by a task of its own that lives while
there are any; others go on meanwhile.  A client that sends without reading is not read from until
it does; one that breaks the protocol is told so, and cut off.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections import deque
from collections.abc import Mapping
from typing import Final, cast

from prometheus_client import REGISTRY

from lj_services.daemon import ConfigError, ConnectionLimits
from lj_services.database import DatabaseError
from lj_services.usercluster.coordinator import (
    console_commands,
    move_commands,
    order_commands,
    worker_commands,
)
from lj_services.usercluster.coordinator.config import CoordinatorSettings
from lj_services.usercluster.coordinator.console import Command, Console, Worker
from lj_services.usercluster.coordinator.core import Coordinator
from lj_services.usercluster.coordinator.desk import Desk
from lj_services.usercluster.coordinator.metrics import ScheduleMetrics
from lj_services.usercluster.coordinator.protocol import (
    GREETING,
    BadRequest,
    Event,
    Lines,
    ProtocolError,
    Reply,
    parse_request,
)

log = logging.getLogger(__name__)

MOST_WAITING: Final = 100
"""Requests of one client that may wait for their turn; then it is not read from."""
MOST_UNREAD: Final = 1 << 20
"""Bytes of events that a subscriber may leave unread; then it is cut off."""

COMMANDS: Final[Mapping[str, Command]] = {
    command.__name__: command
    for module in (worker_commands, move_commands, order_commands, console_commands)
    for command in module.COMMANDS
}


class CoordinatorService:
    """The daemon's life: what `lj_services.daemon.run_service` starts and ends.

    Args:
        settings: the daemon's.
        desk: its lock is held; it is given back at the end.
    """

    def __init__(self, settings: CoordinatorSettings, desk: Desk) -> None:
        self.settings = settings
        self._desk = desk
        self.limits = ConnectionLimits(
            "coordinator", settings.max_connections, settings.idle_timeout_s
        )
        self.coordinator = Coordinator(settings, desk, self._publish, self._deposed)
        self.console = Console(self.coordinator, _stop_process, COMMANDS)
        self.clients: set[Client] = set()
        self._metrics = ScheduleMetrics(self.coordinator.schedule, desk.databases.clusters)
        self._server: asyncio.Server | None = None
        self._poller: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the moves, and listen."""
        address = self.settings.listen
        try:
            await self.coordinator.start()
        except DatabaseError as error:
            raise OSError(str(error)) from error
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Client(self), address.host, address.port
        )
        REGISTRY.register(self._metrics)
        self._poller = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        while True:
            try:
                await self.coordinator.poll()
            except Exception:
                log.exception("a look at the tables failed")
            await asyncio.sleep(self.settings.poll_s)

    async def drain(self) -> None:
        """Give nothing out any more, and answer what was asked."""
        self.console.draining = True
        if self._server is not None:
            self._server.close()
        for client in list(self.clients):
            client.end()
        await self.limits.wait_empty()

    async def close(self) -> None:
        """Cut off who is left, and give the lock back."""
        if self._poller is not None:
            self._poller.cancel()
        if self._server is not None:
            self._server.close()
            REGISTRY.unregister(self._metrics)
            self._server = None
        self.limits.close_all()
        await self.coordinator.close()

    def reload(self, settings: CoordinatorSettings) -> None:
        """Take over limits and times.

        Raises:
            ConfigError: a setting was changed that needs a restart.
        """
        for fixed in ("listen", "advertise", "metrics_listen", "max_line", "host_silent_s"):
            if getattr(settings, fixed) != getattr(self.settings, fixed):
                raise ConfigError(f"{fixed}: can't change while the coordinator runs; restart it")
        self.settings = settings
        self.coordinator.take_settings(settings)
        self.limits.max_connections = settings.max_connections
        self.limits.idle_timeout_s = settings.idle_timeout_s

    def _publish(self, kind: str, text: str) -> None:
        event = bytes(Event(kind, text))
        for client in list(self.clients):
            if client.subscribed:
                client.tell(event)

    def _deposed(self, why: str) -> None:
        log.error("this coordinator ends: %s", why)
        _stop_process()


def _stop_process() -> None:
    signal.raise_signal(signal.SIGTERM)


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, service: CoordinatorService) -> None:
        self._service = service
        self._lines = Lines(service.settings.max_line)
        self._waiting: deque[str] = deque()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._ending = False
        self._broken: str | None = None
        self.last_input = asyncio.get_running_loop().time()
        self.since = time.monotonic()
        self.peer = "?"
        self.worker: Worker | None = None
        self.subscribed = False

    @property
    def gone(self) -> bool:
        """Whether nobody hears the reply any more."""
        return self._transport is None or self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclasses of asyncio's.
        writing = self._transport = cast(asyncio.Transport, transport)
        if (link := transport.get_extra_info("socket")) is not None:
            # A worker's host that lost power never says good-bye.
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        host, port, *_ = transport.get_extra_info("peername") or ("?", 0)
        self.peer = f"{host}:{port}"
        if not self._service.limits.admit(self):
            writing.write(b"ERR busy too many connections\n")
            writing.close()
            return
        self._service.clients.add(self)
        self._service.console.sessions.add(self)
        term = self._service.coordinator.desk.lock.term
        writing.write(f"{GREETING}, term {term}; try help\n".encode())

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        self._writable.set()
        self._service.limits.forget(self)
        self._service.clients.discard(self)
        self._service.console.left(self)

    def pause_writing(self) -> None:
        self._writable.clear()
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable.set()
        if self._transport is not None and not self._ending:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self.last_input = asyncio.get_running_loop().time()
        if self._ending:
            return
        try:
            self._waiting.extend(self._lines.feed(data))
        except ProtocolError as error:
            self._broken = str(error)
            self._ending = True
        if len(self._waiting) > MOST_WAITING and self._transport is not None:
            self._transport.pause_reading()
        if self._task is None:
            self._task = asyncio.create_task(self._answer())

    def eof_received(self) -> bool:
        """The client will send no more; what it asked for is still answered."""
        self.end()
        return True

    async def _answer(self) -> None:
        try:
            while self._waiting and not self.gone:
                await self._answer_one(self._waiting.popleft())
                await self._writable.wait()
                if len(self._waiting) == MOST_WAITING // 2 and not self._ending:
                    self._resume_reading()
        finally:
            self._task = None
        if self._broken is not None:
            self._write(bytes(Reply(self._broken, error="protocol")))
        if self._ending:
            self.close()

    async def _answer_one(self, line: str) -> None:
        try:
            request = parse_request(line)
        except BadRequest as error:
            self._write(bytes(Reply(str(error), error=error.code)))
            return
        if request is None:
            return
        try:
            reply = await self._service.console.answer(self, request)
        except Exception:
            log.exception("%s: %s failed", self.peer, request.command)
            reply = Reply("the coordinator's log says why", error="failed")
        self._write(bytes(reply))

    def _resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def tell(self, event: bytes) -> None:
        """Write an event; a subscriber who does not read is cut off."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > MOST_UNREAD:
            log.warning("%s does not read its events: cut off", self.peer)
            self._transport.abort()
            return
        self._transport.write(event)

    def end(self) -> None:
        """Cut the client off once what it asked for is answered."""
        self._ending = True
        if self._task is None:
            self.close()

    def close(self) -> None:
        """Cut the client off; what is written still goes out."""
        if self._transport is not None:
            self._transport.close()
