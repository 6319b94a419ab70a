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
import os
import signal
import socket
import time
from itertools import count
from typing import Final

import lj_services
from lj_services.daemon.listening import TICK_S, TcpConnection, TcpService, spare_the_collector
from lj_services.database import DatabaseError, Databases, DatabaseSettings
from lj_services.database.config import RoleSettings
from lj_services.gearman.admin import Admin
from lj_services.gearman.commit import GroupCommit
from lj_services.gearman.config import ServerSettings
from lj_services.gearman.dispatch import OFTEN, Dispatcher
from lj_services.gearman.jobs import Peer
from lj_services.gearman.ledger import Batch
from lj_services.gearman.metrics import ServerMetrics
from lj_services.gearman.protocol import (
    HEADER,
    LARGE,
    BadPacket,
    BrokenStream,
    Line,
    Magic,
    PacketParser,
)
from lj_services.gearman.queues import Queues
from lj_services.gearman.rules import Refused, Rules
from lj_services.gearman.store import ROLE, JobStore

SMALL_REST: Final = 1 << 12
"""A packet of which less than this has arrived is put together with what comes, in bytes."""
HEADER_SIZE: Final = HEADER.size
REQUEST: Final = b"\0REQ"
OFTEN_END: Final = max(OFTEN) + 1
NO_ARGUMENTS: Final[tuple[bytes, ...]] = ()
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


class GearmanService(TcpService[ServerSettings]):
    """The server's life: what `lj_services.daemon.run_service` starts and ends."""

    fixed = (*TcpService.fixed, "handle_prefix", "persist", "shutdown_command")

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__("gearman", settings)
        self.queues = Queues(
            settings.handle_prefix, _rules(settings), now=self.now(), wall=time.time()
        )
        self.dispatcher = Dispatcher(self.queues, exceptions=settings.exceptions)
        self.admin = Admin(
            self.queues,
            lambda: list(self.connections),
            version=VERSION,
            log_level=lambda: self.settings.log_level,
            shutdown=self._shut_down if settings.shutdown_command else None,
        )
        self.connections: dict[Peer, Connection] = {}
        self.unsent: list[Peer] = []
        """Peers with something in their outbox."""
        self.numbers = count(1)
        self.cut_off = 0
        self._hurry = False
        self._quiet = asyncio.Event()
        self._databases: Databases | None = None
        self._commit: GroupCommit | None = None

    def make_connection(self) -> Connection:
        """A client or worker that is about to connect."""
        return Connection(self)

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address can't be bound, or stored jobs can't be read.
        """
        if self.settings.persist is not None:
            await self._open_store(self.settings.persist)
        spare_the_collector()  # jobs are taken from their peers before they are let go
        await super().start()
        self.show_metrics(ServerMetrics(self.queues, lambda: self.cut_off))

    async def drain(self) -> None:
        """Stop listening, take in and give out no job, and wait for those that run."""
        self.dispatcher.closing = True
        await super().drain()

    async def settle(self) -> None:
        """Wait until no worker has a job, and everything is stored."""
        if not self._hurry:
            await self._quiet.wait()
        if self._commit is not None:
            await self._commit.settle()
            if self._commit.is_over:
                self.limits.close_all()  # what they submitted can't be stored any more

    async def close(self) -> None:
        """Cut off who is left, and forget everything that isn't stored."""
        await super().close()
        if self._commit is not None:
            self._commit.close()
        if self._databases is not None:
            self._databases.close()

    def apply(self, settings: ServerSettings) -> None:
        """Take over limits and policies."""
        self.queues.rules = _rules(settings)
        self.dispatcher.exceptions = settings.exceptions

    def flush(self) -> None:
        """Hand what waits in outboxes to the transports."""
        while self.unsent:
            connection = self.connections.get(self.unsent.pop())
            if connection is not None:
                connection.flush()

    def advance(self) -> None:
        """Let time pass for the jobs."""
        self.queues.advance(self.now(), time.time())

    def tick(self) -> float:
        """Let time pass for the jobs."""
        self.advance()
        self.flush()
        if self.dispatcher.closing and not self.queues.any_running:
            self._quiet.set()
        return TICK_S

    async def _open_store(self, role: RoleSettings) -> None:
        """Take in the jobs that are stored, and store others from now on."""
        started = time.perf_counter()
        try:
            self._databases = Databases(DatabaseSettings(roles={ROLE: role}))
            store = JobStore(self._databases, self.settings.handle_prefix)
            self.queues.newest = await self._loop.run_in_executor(None, store.open)
            # Nobody is connected yet whom this could keep waiting.
            for row in await self._loop.run_in_executor(None, lambda: list(store.jobs())):
                self.queues.restore(row)
        except DatabaseError as error:
            raise OSError(f"stored jobs: {error}") from error
        log.info(
            "stored jobs are back",
            extra={"jobs": len(self.queues.jobs), "s": round(time.perf_counter() - started, 3)},
        )
        commit = GroupCommit(store, lambda: self.queues.newest, self._settled, self._taken)
        self._commit, self.queues.ledger = commit, commit.ledger

    def _settled(self, batch: Batch, failed: dict[int, str]) -> None:
        """A batch of jobs is stored: those who have waited for that are told."""
        assert self._commit is not None
        for peer in self._commit.ledger.settle(batch, failed):
            if (connection := self.connections.get(peer)) is not None:
                connection.released()
        for number in failed:
            self.queues.not_stored(batch.rows[number][1])
        self.flush()

    def _taken(self, why: str) -> None:
        log.error("this server ends: %s", why)
        self._shut_down(graceful=False)

    def _shut_down(self, graceful: bool) -> None:
        self._hurry = not graceful
        log.info("shutdown was asked for", extra={"graceful": graceful})
        self._loop.call_soon(signal.raise_signal, signal.SIGTERM)


class Connection(TcpConnection):
    """One client or worker."""

    __slots__ = ("_number", "_often", "_parser", "_service", "peer")

    def __init__(self, service: GearmanService) -> None:
        super().__init__(service)
        self._service = service
        self._parser = PacketParser(
            Magic.REQUEST, max_body=service.settings.max_packet, uncopied=LARGE
        )
        self._often = service.dispatcher.often
        self.peer = Peer()
        self._number = -1  # of the socket's file, for what is sent past the transport

    # -- what the event loop calls ------------------------------------------------

    def admitted(self) -> None:
        """The connection becomes a peer."""
        service = self._service
        if (connected := self._transport.get_extra_info("socket")) is not None:
            self._number = connected.fileno()
            for level, option, value in KEEP_ALIVE:
                connected.setsockopt(level, option, value)
        name = self._transport.get_extra_info("peername")
        address = str(name[0]) if name else "-"
        self.peer = Peer(next(service.numbers), address, service.unsent)
        service.connections[self.peer] = self

    def departed(self) -> None:
        """Others get its jobs."""
        service = self._service
        del service.connections[self.peer]
        service.queues.leave(self.peer)
        service.flush()

    def data_received(self, data: bytes) -> None:
        """Carry out what is complete."""
        if self._closing:
            return
        self.last_input = self._service.queues.now = self._service.now()
        parser = self._parser
        if self._writable and parser.held <= SMALL_REST:
            if parser.held:
                data = parser.give_back() + data
            done = self._quickly(data)
            if done < len(data):
                parser.feed(data[done:] if done else data)
                self._work()
        else:
            parser.feed(data)
            self._work()
        if self.peer.outbox:
            self.flush(at_once=True)
        self._service.flush()

    # -- the work -----------------------------------------------------------------

    def work(self) -> None:
        """Carry out packets and lines, and send what came of them."""
        self._work()
        self._service.flush()

    def _quickly(self, data: bytes) -> int:
        """Carry out packets of the kinds that come often; the parser does without them.

        Returns:
            how much of `data` has been carried out: up to a packet that is not complete, of
            another kind, or wrong, or until the client doesn't read.
        """
        peer, often, start, end = self.peer, self._often, 0, len(data)
        unpack, biggest = HEADER.unpack_from, self._service.settings.max_packet
        while end - start >= HEADER_SIZE:
            magic, number, length = unpack(data, start)
            body = start + HEADER_SIZE
            after = body + length
            if after > end or magic != REQUEST or number >= OFTEN_END or length > biggest:
                break
            entry = often[number]
            if entry is None:
                break
            arguments, handler = entry
            args = data[body:after].split(b"\0", arguments - 1) if arguments else NO_ARGUMENTS
            if len(args) != arguments or (length and not arguments):
                break
            try:
                handler(peer, args)
            except Refused as refused:
                self._service.dispatcher.error(peer, refused.code, str(refused))
            start = after
            if peer.unsent_bytes > PORTION_BYTES:
                self.flush()
                if not self._writable or self._closing:
                    break
        return start

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
                self.end()
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

    def released(self) -> None:
        """What the client waited for is stored, or some of it."""
        if self.peer.held:
            if not self._transport.is_closing():
                self._transport.write(self.peer.take_marked())
            return
        self.flush()
        if self._last:
            self.finish()

    def finish(self) -> None:
        """Close when the client has its answers; that may have to wait for jobs to be stored."""
        self._last = True
        if not self.peer.held:
            super().finish()

    def flush(self, at_once: bool = False) -> None:
        """Hand what is to be sent to the transport; cut off a client that doesn't read.

        Args:
            at_once: don't let the transport wait until the event loop has heard all others.
        """
        peer = self.peer
        if not peer.outbox or self._transport.is_closing():
            peer.take()
            return
        if self._writable and not peer.held:
            if peer.unsent_bytes >= LARGE:
                self._send_parts()
            elif at_once:
                self._send_at_once(peer.take())
            else:
                self._transport.write(peer.take())
            return
        waiting = peer.unsent_bytes + self._transport.get_write_buffer_size()
        if waiting > self._service.settings.max_output:
            log.warning(
                "cut off: it does not read what it is sent",
                extra={"peer": peer.address, "client_id": peer.client_id, "bytes": waiting},
            )
            self._service.cut_off += 1
            self.close()
        elif not peer.held:
            self._send_parts()

    def _send_parts(self) -> None:
        for part in self.peer.take_parts():
            self._transport.write(part)

    def _send_at_once(self, data: bytes) -> None:
        # The peer can go on while the server looks at what others have sent; a transport that
        # gathers what is written in one turn of the loop would let it wait for that.
        transport = self._transport
        if self._number >= 0 and not transport.get_write_buffer_size():
            try:
                sent = os.write(self._number, data)
            except OSError:
                sent = 0  # there is no room, or nobody there any more: the transport finds out
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)

    def ending(self) -> None:
        """Hand over the last answers."""
        self.flush()


def _rules(settings: ServerSettings) -> Rules:
    return Rules(
        job_retries=settings.job_retries,
        on_timeout=settings.on_timeout,
        round_robin=settings.round_robin,
        max_queue=settings.max_queue,
        max_data=settings.max_data,
    )
