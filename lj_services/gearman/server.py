"""The Gearman server's life: what it listens on, keeps, stores and counts.

Its connections (`server_connection`) carry out packets at once, by way of the dispatcher;
what changes because time passes, or because something is stored, begins here.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from itertools import count
from typing import Final

import lj_services
from lj_services.daemon.listening import TICK_S, TcpService, spare_the_collector
from lj_services.database import DatabaseError, Databases, DatabaseSettings
from lj_services.database.config import RoleSettings
from lj_services.gearman.admin import Admin
from lj_services.gearman.commit import GroupCommit
from lj_services.gearman.config import ServerSettings
from lj_services.gearman.dispatch import Dispatcher
from lj_services.gearman.jobs import Peer
from lj_services.gearman.ledger import Batch
from lj_services.gearman.metrics import ServerMetrics
from lj_services.gearman.queues import Queues
from lj_services.gearman.rules import Rules
from lj_services.gearman.server_connection import Connection
from lj_services.gearman.store import ROLE, JobStore

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

    def flush(self, asker: Peer | None = None) -> None:
        """Hand what waits in outboxes to the transports.

        Who is woken is told at once and, being the last to have been written to, before the
        one who asks: a worker that wakes meanwhile is what the client waits for, and nothing
        that could share the write will come before the worker asks.

        Args:
            asker: who is answered, at once.
        """
        while self.unsent:
            peer = self.unsent.pop()
            connection = self.connections.get(peer)
            if connection is not None:
                connection.flush(at_once=peer is asker or peer.woken_for is not None)

    def soon(self, call: Callable[[], None]) -> None:
        """Have something called in the next turn of the loop."""
        self._loop.call_soon(call)

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


def _rules(settings: ServerSettings) -> Rules:
    return Rules(
        job_retries=settings.job_retries,
        on_timeout=settings.on_timeout,
        round_robin=settings.round_robin,
        max_queue=settings.max_queue,
        max_data=settings.max_data,
    )
