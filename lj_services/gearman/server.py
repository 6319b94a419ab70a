"""The Gearman server: connections in, packets to the dispatcher, answers out.

Theory of operation
===================

What a read brings is carried out packet by packet; what is to be sent, to this
connection or to others, gathers in the peers' outboxes and leaves in one write for each
peer at the end (`GearmanService.flush`).  Nothing here waits, so no two packets are ever
carried out at the same time.

A client that asks but doesn't read is not asked any further: while its transport is full
nothing is read from it.  What others send it, as results of its jobs, may still grow, up
to ``max_output``; then it is cut off, and its jobs are treated as those of any client that
has left.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from itertools import count
from typing import Any, Final

from prometheus_client import REGISTRY

import lj_services
from lj_services.daemon import ConfigError, ConnectionLimits
from lj_services.gearman.admin import Admin
from lj_services.gearman.config import ServerSettings
from lj_services.gearman.dispatch import Dispatcher
from lj_services.gearman.jobs import Peer
from lj_services.gearman.metrics import ServerMetrics
from lj_services.gearman.protocol import (
    BadPacket,
    BrokenStream,
    Line,
    Magic,
    PacketParser,
)
from lj_services.gearman.queues import Queues, Rules

TICK_S: Final = 0.1
"""How often time passes for the jobs, in seconds."""
BACKLOG: Final = 1024
PORTION_BYTES: Final = 1 << 18
"""How much is gathered for the connection that asks before it is written, in bytes."""
KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
"""A worker whose host has died is noticed after two minutes, and its jobs go to others."""
VERSION: Final = f"lj-{lj_services.__version__}"
"""What ``version`` answers."""

log = logging.getLogger(__name__)


class GearmanService:
    """The server's life: what `lj_services.daemon.run_service` starts and ends."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._loop = asyncio.get_running_loop()
        self.queues = Queues(
            settings.handle_prefix, _rules(settings), now=self._loop.time(), wall=time.time()
        )
        self.dispatcher = Dispatcher(self.queues, exceptions=settings.exceptions)
        self.admin = Admin(
            self.queues,
            lambda: [connection.peer for connection in self.connections.values()],
            version=VERSION,
            log_level=lambda: self.settings.log_level,
            shutdown=self._shut_down if settings.shutdown_command else None,
        )
        self.limits = ConnectionLimits("gearman", settings.max_connections, settings.idle_timeout_s)
        self.connections: dict[Peer, Connection] = {}
        self.unsent: list[Peer] = []
        """Peers with something in their outbox."""
        self.numbers = count(1)
        self.cut_off = 0
        self._hurry = False
        self._quiet = asyncio.Event()
        self._metrics = ServerMetrics(self.queues, lambda: self.cut_off)
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen."""
        address = self.settings.listen
        self._server = await self._loop.create_server(
            lambda: Connection(self), address.host, address.port, backlog=BACKLOG
        )
        REGISTRY.register(self._metrics)
        self._tick()

    async def drain(self) -> None:
        """Stop listening, take in and give out no job, and wait for those that run."""
        self.dispatcher.closing = True
        if self._server is not None:
            self._server.close()
        if not self._hurry:
            await self._quiet.wait()
        for connection in list(self.connections.values()):
            connection.finish()
        await self.limits.wait_empty()

    async def close(self) -> None:
        """Cut off who is left, and forget everything."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._server is not None:
            self._server.close()
            REGISTRY.unregister(self._metrics)
            self._server = None
        self.limits.close_all()

    def reload(self, settings: ServerSettings) -> None:
        """Take over limits and policies, and the log level.

        Raises:
            ConfigError: a setting was changed that needs a restart.
        """
        for fixed in ("listen", "metrics_listen", "handle_prefix", "shutdown_command"):
            if getattr(settings, fixed) != getattr(self.settings, fixed):
                raise ConfigError(f"{fixed}: can't change while the server runs; restart it")
        self.settings = settings
        self.queues.rules = _rules(settings)
        self.dispatcher.exceptions = settings.exceptions
        self.limits.max_connections = settings.max_connections
        self.limits.idle_timeout_s = settings.idle_timeout_s

    def flush(self) -> None:
        """Hand what waits in outboxes to the transports."""
        while self.unsent:
            connection = self.connections.get(self.unsent.pop())
            if connection is not None:
                connection.flush()

    def advance(self) -> None:
        """Let time pass for the jobs."""
        self.queues.advance(self.now(), time.time())

    def now(self) -> float:
        """The loop's time, in seconds."""
        return self._loop.time()

    def _tick(self) -> None:
        self.advance()
        self.flush()
        if self.dispatcher.closing and not self.queues.any_running:
            self._quiet.set()
        self._ticker = self._loop.call_later(TICK_S, self._tick)

    def _shut_down(self, graceful: bool) -> None:
        self._hurry = not graceful
        log.info("shutdown was asked for", extra={"graceful": graceful})
        self._loop.call_soon(signal.raise_signal, signal.SIGTERM)


class Connection(asyncio.Protocol):
    """One client or worker."""

    def __init__(self, service: GearmanService) -> None:
        self._service = service
        self._parser = PacketParser(Magic.REQUEST, max_body=service.settings.max_packet)
        self._transport: Any = None
        self._writable = True
        self._last = False  # whether nothing is read any more
        self._closing = False  # whether nothing is done any more
        self.peer = Peer()
        self.last_input = service.queues.now

    # -- what the event loop calls ------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the client in, or turn it away."""
        self._transport = transport
        service = self._service
        if service.dispatcher.closing or not service.limits.admit(self):
            self._closing = True
            self._transport.close()
            return
        if (connected := transport.get_extra_info("socket")) is not None:
            for level, option, value in KEEP_ALIVE:
                connected.setsockopt(level, option, value)
        name = transport.get_extra_info("peername")
        address = str(name[0]) if name else "-"
        self.peer = Peer(next(service.numbers), address, service.unsent)
        service.connections[self.peer] = self

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the client out; others get its jobs."""
        self._closing = True
        service = self._service
        if service.connections.pop(self.peer, None) is None:
            return
        service.limits.forget(self)
        service.queues.leave(self.peer)
        service.flush()

    def data_received(self, data: bytes) -> None:
        """Carry out what is complete."""
        if self._closing:
            return
        self.last_input = self._service.queues.now = self._service.now()
        self._parser.feed(data)
        self._work()
        self._service.flush()

    def pause_writing(self) -> None:
        """The client doesn't read: ask nothing more of it."""
        self._writable = False
        if not self._closing:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client has read: go on."""
        self._writable = True
        if self._closing:
            return
        self._work()
        self._service.flush()
        if not self._writable or self._closing:
            return
        if self._last:
            self._end()
        else:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """The client sends no more: it still gets the answers that are due."""
        self.finish()
        return True

    # -- the work -----------------------------------------------------------------

    def _work(self) -> None:
        """Carry out packets and lines until there is none, or the client doesn't read."""
        parser, peer, service = self._parser, self.peer, self._service
        while self._writable and not self._closing:
            try:
                got = parser.next()
            except BadPacket as error:
                service.dispatcher.wrong(peer, error)
            except BrokenStream as error:
                log.info("closed: %s", error, extra={"peer": peer.address})
                service.dispatcher.wrong(peer, error)
                self._end()
                return
            else:
                if got is None:
                    return
                if isinstance(got, Line):
                    peer.write(service.admin.answer(got.text))
                else:
                    service.dispatcher.packet(peer, got)
            if peer.unsent_bytes > PORTION_BYTES:
                self.flush()

    def flush(self) -> None:
        """Hand what is to be sent to the transport; cut off a client that doesn't read."""
        peer = self.peer
        if not peer.outbox or self._transport.is_closing():
            peer.take()
            return
        waiting = peer.unsent_bytes + self._transport.get_write_buffer_size()
        limit = self._service.settings.max_output
        if waiting > limit and not self._writable:
            log.warning(
                "cut off: it does not read what it is sent",
                extra={"peer": peer.address, "client_id": peer.client_id, "bytes": waiting},
            )
            self._service.cut_off += 1
            self.close()
            return
        self._transport.write(peer.take())

    def finish(self) -> None:
        """Close when what has been received is done and the client has its answers."""
        self._last = True
        if self._writable and not self._closing:
            self._end()

    def _end(self) -> None:
        """Do nothing more; close when the client has its answers."""
        self.flush()
        self._closing = True
        self._transport.close()

    def close(self) -> None:
        """Cut the client off."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()


def _rules(settings: ServerSettings) -> Rules:
    return Rules(
        job_retries=settings.job_retries,
        on_timeout=settings.on_timeout,
        max_queue=settings.max_queue,
        max_data=settings.max_data,
    )
