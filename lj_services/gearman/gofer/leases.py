"""Transactions that are held between calls, until their lease runs out.

A lease belongs to one gofer, since its connection does.  It runs out when no call came
for its time; a call that is being carried out stops the clock.  Then, and when its
connection breaks, the transaction is rolled back, and later calls learn `TransactionLost`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from lj_services.gearman.gofer import metrics
from lj_services.gearman.gofer.errors import (
    Error,
    OperationalError,
    TransactionLost,
    TryAgain,
)
from lj_services.gearman.gofer.executor import Executor, Held
from lj_services.gearman.gofer.messages import Request, dumps

log = logging.getLogger(__name__)

R = TypeVar("R")
InThread = Callable[..., Awaitable[Any]]
"""Calls a blocking function with arguments."""


class _Lease:
    def __init__(self, held: Held, seconds: float) -> None:
        self.held = held
        self.seconds = seconds
        self.lock = asyncio.Lock()  # one call at a time
        self.alarm: asyncio.TimerHandle | None = None


class Leases:
    """The leases of one role.

    Args:
        role: the database role.
        executor: carries out their calls.
        in_thread: where that is done, for it blocks.
        most: how many there may be.
        changed: told how many there are.
    """

    def __init__(
        self,
        role: str,
        executor: Executor,
        in_thread: InThread,
        most: int,
        changed: Callable[[int], None],
    ) -> None:
        self._role = role
        self._executor = executor
        self._in_thread = in_thread
        self._most = most
        self._changed = changed
        self._leases: dict[str, _Lease] = {}
        self._opening = 0
        self._rolling_back: set[asyncio.Task[None]] = set()
        self.none = asyncio.Event()
        """Set while there are no leases."""
        self.none.set()

    async def open(self, request: Request, function: str) -> bytes:
        """Start a transaction and hold it; the answer, with where it is held.

        Raises:
            Error: what the caller is to be told; nothing is held.
        """
        if len(self._leases) + self._opening >= self._most:
            raise OperationalError(
                f"all {self._most} leases of {self._role} are taken; try again, or send the "
                "transaction as one call"
            )
        self._opening += 1
        try:
            held, answer = await self._in_thread(self._executor.hold, self._role, request)
        finally:
            self._opening -= 1
        name = secrets.token_hex(16)
        lease = self._leases[name] = _Lease(held, request.lease_s)
        self._wind(name, lease)
        self._tell()
        where = {"lease": {"name": name, "function": function}}
        return bytes(answer) + b"\n" + dumps(where).encode()

    async def call(self, request: Request) -> bytes:
        """Carry out a call in a held transaction; the answer.

        Raises:
            Error: what the caller is to be told.
        """
        lease = self._leases.get(request.lease)
        if lease is None:
            return await self._call_late(request)
        async with lease.lock:
            if self._leases.get(request.lease) is not lease:
                return await self._call_late(request)
            if lease.alarm is not None:
                lease.alarm.cancel()
            if request.do == "step":
                return await self._step(lease, request)
            del self._leases[request.lease]
            try:
                if request.do == "commit":
                    return bytes(await self._in_thread(lease.held.commit, request))
                await self._in_thread(lease.held.rollback)
                return b'{"n":0}'
            finally:
                self._tell()

    async def close(self) -> None:
        """Roll back all."""
        for name in list(self._leases):
            self._expire(name, why="the gofer stops")
        await asyncio.gather(*self._rolling_back)

    async def _step(self, lease: _Lease, request: Request) -> bytes:
        try:
            answer: bytes = await self._in_thread(lease.held.step, request)
        except Error as error:
            # Where the database may have rolled back already, nothing is left to go on with.
            if isinstance(error, TryAgain) or lease.held.broken:
                self._expire(request.lease, why=str(error))
                raise TransactionLost(f"rolled back: {error}") from error
            raise
        finally:
            if request.lease in self._leases:
                self._wind(request.lease, lease)
        return answer

    async def _call_late(self, request: Request) -> bytes:
        """A call for a lease that is not there, perhaps since it is the second delivery."""
        if request.do == "commit":
            known = await self._in_thread(self._executor.known, self._role, request.call)
            if known is not None:
                return bytes(known)
        if request.do == "rollback":
            return b'{"n":0}'
        raise TransactionLost("the transaction is gone, and was rolled back: its lease ran out")

    def _wind(self, name: str, lease: _Lease) -> None:
        loop = asyncio.get_running_loop()
        lease.alarm = loop.call_later(lease.seconds, self._expire, name)

    def _expire(self, name: str, why: str = "its lease ran out") -> None:
        lease = self._leases.pop(name, None)
        if lease is None:
            return
        if lease.alarm is not None:
            lease.alarm.cancel()
        log.warning("a transaction is rolled back", extra={"role": self._role, "why": why})
        metrics.EXPIRED.labels(self._role).inc()

        async def roll_back() -> None:
            await self._in_thread(lease.held.rollback)

        def rolled_back(task: asyncio.Task[None]) -> None:
            self._rolling_back.discard(task)
            self._tell()

        task = asyncio.create_task(roll_back())
        self._rolling_back.add(task)
        task.add_done_callback(rolled_back)

    def _tell(self) -> None:
        # What is being rolled back still has its connection.
        count = len(self._leases) + len(self._rolling_back)
        if count:
            self.none.clear()
        else:
            self.none.set()
        metrics.LEASES.labels(self._role).set(count)
        self._changed(count)
