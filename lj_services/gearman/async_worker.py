"""The Gearman worker for asyncio: many jobs at the same time, in one event loop.

::

    worker = AsyncWorker(["10.0.3.1:4730", "10.0.3.2:4730"], at_once=50)

    @worker.function("fetch", timeout_s=30)
    async def fetch(job: AsyncJob) -> bytes:
        await job.progress(1, 2)
        return await page(job.payload)

    await worker.run()

It is for functions that wait; one that computes, or blocks, holds up all others unless it
gives that to `asyncio.to_thread`.  Which servers are asked, and when, is decided as for
`Worker` (`worker_session`): it has one connection to each, and all its jobs share them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from lj_services.daemon import HostPort
from lj_services.gearman.async_connection import AsyncConnection
from lj_services.gearman.client_errors import BadTask, GearmanError
from lj_services.gearman.placement import Address
from lj_services.gearman.protocol import Packet, PacketType
from lj_services.gearman.worker_jobs import (
    Ability,
    Call,
    JobFailed,
    JobTimedOut,
    Result,
    as_bytes,
    raised,
    returned,
)
from lj_services.gearman.worker_link import Assignment, Link, State
from lj_services.gearman.worker_session import FIRST_PAUSE_S, Offering, ServerState, WorkerSession

__all__ = ["AsyncJob", "AsyncWorker", "JobFailed", "JobTimedOut"]

log = logging.getLogger(__name__)

_TICK_S: Final = 3600.0

Server = ServerState[AsyncConnection]


class AsyncJob(Call):
    """What an asynchronous worker's function is called with."""

    def __init__(
        self,
        server: HostPort,
        assignment: Assignment,
        connection: AsyncConnection,
        answer_timeout_s: float,
    ) -> None:
        super().__init__(server, assignment)
        self._connection = connection
        self._answer_timeout_s = answer_timeout_s

    async def progress(self, numerator: int, denominator: int) -> None:
        """Tell the clients how far the job is, for instance 3 of 10."""
        await self.tell(PacketType.WORK_STATUS, b"%d" % numerator, b"%d" % denominator)

    async def data(self, part: bytes | str) -> None:
        """Send a part of the result at once; waits while the server does not take it."""
        await self.tell(PacketType.WORK_DATA, as_bytes(part))

    async def warning(self, text: bytes | str) -> None:
        """Send a warning; the job goes on."""
        await self.tell(PacketType.WORK_WARNING, as_bytes(text))

    async def tell(self, kind: PacketType, *args: bytes) -> None:
        """Send a packet about the job, unless its server is gone (`lost`)."""
        if self.lost:
            return
        try:
            self._connection.put(kind, self.handle, *args)
            await self._connection.drain(self._answer_timeout_s)
        except BadTask:
            raise
        except GearmanError as error:
            self.lost = True
            log.warning("the job's server is gone", extra={"job": self.handle, "error": error})


AsyncWorkerFunction = Callable[[AsyncJob], Awaitable[Result]]


class AsyncWorker(Offering[AsyncWorkerFunction, AsyncConnection]):
    """One worker of one event loop.  A function that takes longer than it may is cancelled."""

    def __init__(
        self,
        servers: Sequence[Address],
        *,
        at_once: int = 1,
        client_id: str = "",
        connect_timeout_s: float = 1.0,
        answer_timeout_s: float = 10.0,
        max_pause_s: float = 5.0,
    ) -> None:
        """Nothing is connected before `run`.

        Args:
            servers: ``HOST:PORT`` or ``HOST``.
            at_once: how many jobs are done at the same time.
            client_id: the name that the servers show; default: host and process id.
            connect_timeout_s: longest wait for a connection, in seconds.
            answer_timeout_s: how long a server may take to answer or to take in a result,
                in seconds; then it is connected again.
            max_pause_s: longest pause between attempts to connect, in seconds.

        Raises:
            ValueError: no servers, one is there twice or is no address, a bad id, or
                `at_once` is less than 1.
        """
        session = WorkerSession[AsyncWorkerFunction, AsyncConnection](
            servers, client_id=client_id, max_pause_s=max_pause_s, at_once=at_once
        )
        super().__init__(session)
        self._connect_timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._stopping = False
        self._changed = asyncio.Event()
        self._asked: dict[Server, float] = {}  # until when the answer to a grab is due
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = 0
        self._limit: int | None = None
        self._last = 0.0

    @property
    def at_once(self) -> int:
        """How many jobs are done at the same time."""
        return self._session.at_once

    @at_once.setter
    def at_once(self, count: int) -> None:
        self._session.at_once = count
        self._changed.set()

    def stop(self) -> None:
        """Let `run` return after the current jobs; to be called in the event loop."""
        self._stopping = True
        self._changed.set()

    async def run(self, *, max_jobs: int | None = None, idle_timeout_s: float | None = None) -> int:
        """Work until `stop`.

        Args:
            max_jobs: return after so many jobs.
            idle_timeout_s: return after so many seconds without one.

        Returns:
            How many jobs were done.
        """
        loop = asyncio.get_running_loop()
        before = self.jobs_done
        self._last = loop.time()
        self._limit = None if max_jobs is None else self._started + max_jobs
        try:
            while not self._over(idle_timeout_s):
                self._changed.clear()
                self._cut_silent(loop.time())
                if not self._stopping:
                    for server in self._session.due(loop.time()):
                        server.retry_at = float("inf")  # until it has failed
                        self._spawn(self._serve(server))
                    self._ask()
                await self._wait(idle_timeout_s)
        finally:
            # Only after a cancellation are there jobs among them.
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for server in self._session.servers:
                server.retry_at = 0.0
        return self.jobs_done - before

    def _over(self, idle_timeout_s: float | None) -> bool:
        if self._session.running or self._session.asked:
            return False
        if self._stopping or (self._limit is not None and self._started >= self._limit):
            return True
        idle_s = asyncio.get_running_loop().time() - self._last
        return idle_timeout_s is not None and idle_s >= idle_timeout_s

    async def _wait(self, idle_timeout_s: float | None) -> None:
        """Until something changed, or is due."""
        now = asyncio.get_running_loop().time()
        limits = [now + _TICK_S, *self._asked.values()]
        if idle_timeout_s is not None and not self._session.running:
            limits.append(self._last + idle_timeout_s)
        if (retry := self._session.next_retry()) is not None and not self._stopping:
            limits.append(retry)
        try:
            async with asyncio.timeout_at(min(limits)):
                await self._changed.wait()
        except TimeoutError:
            return

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- servers -------------------------------------------------------------------

    async def _serve(self, server: Server) -> None:
        """One connection to a server, from its beginning to its end."""
        loop = asyncio.get_running_loop()
        connection: AsyncConnection | None = None
        try:
            connection = await AsyncConnection.open(server.address, self._connect_timeout_s)
            connection.put_all(self._session.greet(server, connection))
            log.info("offering functions", extra={"server": server.address})
            self._changed.set()
            while True:
                for packet in await connection.receive():
                    self._received(server, connection, packet)
        except GearmanError as error:
            self._session.failed(server, loop.time(), error)
        finally:
            server.connection = None
            if connection is not None:
                connection.close()
            self._changed.set()

    def _ask(self) -> None:
        """Ask servers for as many jobs as can be taken."""
        while (server := self._session.next_to_ask()) is not None:
            if self._limit is not None and self._started + self._session.asked >= self._limit:
                return
            assert server.connection is not None
            server.connection.put(server.link.grab())
            self._asked[server] = asyncio.get_running_loop().time() + self._answer_timeout_s

    def _cut_silent(self, now: float) -> None:
        """Give up servers that owe an answer for too long."""
        for server, deadline in list(self._asked.items()):
            if server.connection is None or server.link.state is not State.ASKED:
                del self._asked[server]
            elif deadline <= now:
                del self._asked[server]
                log.warning("no answer in time", extra={"server": server.address})
                server.connection.close()  # which ends its reader

    def _received(self, server: Server, connection: AsyncConnection, packet: Packet) -> None:
        assignment = server.link.received(packet)
        server.pause_s = FIRST_PAUSE_S
        if server.link.state is State.EMPTY:
            connection.put(server.link.sleep())
        if assignment is not None:
            job = AsyncJob(server.address, assignment, connection, self._answer_timeout_s)
            ability = self._session.abilities.get(job.function)
            if ability is None:
                raise GearmanError(f"got a job for {job.function!r}, which was not offered")
            self._started += 1
            self._session.running += 1
            self._spawn(self._do(server.link, job, ability))
        self._changed.set()

    # -- jobs ----------------------------------------------------------------------

    async def _do(self, link: Link, job: AsyncJob, ability: Ability[AsyncWorkerFunction]) -> None:
        try:
            try:
                ending = returned(await self._call(job, ability))
            except Exception as error:
                ending = raised(job, error)
            for kind, args in ending:
                await job.tell(kind, *args)
            link.finished()
            self.jobs_done += 1
        finally:
            self._session.running -= 1
            self._last = asyncio.get_running_loop().time()
            self._changed.set()

    async def _call(self, job: AsyncJob, ability: Ability[AsyncWorkerFunction]) -> Result:
        limit = asyncio.timeout(ability.timeout_s)
        try:
            async with limit:
                return await ability.call(job)
        except TimeoutError:
            if not limit.expired():
                raise  # the function's own
            raise JobTimedOut(f"the job took longer than {ability.timeout_s:g} s") from None
