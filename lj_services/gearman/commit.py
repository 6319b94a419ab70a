"""Writes the ledger's batches: one after the other, in a thread that may wait for the disk."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Counter, Histogram

from lj_services.database import DatabaseError, DatabaseUnreachable
from lj_services.gearman.ledger import Batch, Ledger
from lj_services.gearman.store import JobStore, Row, StoreTaken

PAUSE_S: Final = 1.0
"""How long nothing is tried after a batch could not be written, in seconds."""
LAZY_S: Final = 0.05
"""How long what nobody waits for, as that a job is done, may wait for others, in seconds."""
SETTLE_S: Final = 0.01
SWITCH_S: Final = 0.0005
"""How long the writing thread may keep others from the interpreter, in seconds."""

BATCHES = Counter("lj_gearman_store_batches", "Batches of background jobs written")
STORED = Counter("lj_gearman_store_jobs", "Background jobs stored")
UNSTORED = Counter("lj_gearman_store_failed", "Background jobs that could not be stored")
WRITING = Histogram("lj_gearman_store_seconds", "Time that a batch took to be written")

log = logging.getLogger(__name__)

Settled = Callable[[Batch, dict[int, str]], None]


class GroupCommit:
    """Writes what gathers in a ledger; made and used in the event loop.

    Args:
        store: where to.
        newest: gives the number of the newest job.
        settled: told of each batch when it is written, and of the jobs that could not be:
            number -> why.
        taken: told when another server of the same name has started: this one must end.
    """

    def __init__(
        self,
        store: JobStore,
        newest: Callable[[], int],
        settled: Settled,
        taken: Callable[[str], None],
    ) -> None:
        self.ledger = Ledger(self.wake)
        self._store = store
        self._newest = newest
        self._settled = settled
        self._taken = taken
        self._thread = ThreadPoolExecutor(1, "gearman-store")
        # By default each packet would wait for ten times as long while a batch is written.
        sys.setswitchinterval(SWITCH_S)
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_over = False
        """Whether another server writes now, and this one must not."""

    def wake(self, waited_for: bool) -> None:
        """There is something to be written: at once, or soon if nobody waits for it."""
        if self._task is not None or self.is_over:
            return
        if waited_for:
            self._start()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LAZY_S, self._start)

    async def settle(self) -> None:
        """Return when everything is written, or nothing may be written any more."""
        while not self.ledger.idle and not self.is_over:
            if self._task is None:
                self._start()
            await asyncio.sleep(SETTLE_S)

    def close(self) -> None:
        """Write nothing more than what is being written."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown()

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while batch := self.ledger.cut():
                try:
                    written = await loop.run_in_executor(
                        self._thread, self._write, self._newest(), batch
                    )
                except StoreTaken as error:
                    self.is_over = True
                    self._taken(str(error))
                    return
                self._settled(batch, written.failed)
                if not written.all:
                    self.ledger.again(batch)
                    await asyncio.sleep(PAUSE_S)
                elif not self.ledger.waited_for:
                    break
        finally:
            self._task = None
        if not self.ledger.idle:
            self.wake(self.ledger.waited_for)

    def _write(self, newest: int, batch: Batch) -> Written:
        """In the thread: write a batch, or what of it can be written."""
        started = time.perf_counter()
        rows = [row for row, _ in batch.rows.values()]
        result = Written()
        try:
            self._store.write(newest, list(batch.gone), rows)
        except StoreTaken:
            raise
        except DatabaseError as error:
            log.error("jobs could not be stored: %s", error, extra={"jobs": len(rows)})
            result.all = False
            if len(rows) > 1 and not isinstance(error, DatabaseUnreachable):
                self._write_each(newest, rows, result)
            else:
                result.failed = {row.number: str(error) for row in rows}
        BATCHES.inc()
        STORED.inc(len(rows) - len(result.failed))
        UNSTORED.inc(len(result.failed))
        WRITING.observe(time.perf_counter() - started)
        return result

    def _write_each(self, newest: int, rows: Sequence[Row], result: Written) -> None:
        """One that can't be stored, as one that is too large, does not keep others out."""
        for row in rows:
            try:
                self._store.write(newest, (row.number,), [row])
            except StoreTaken:
                raise
            except DatabaseError as error:
                result.failed[row.number] = str(error)


@dataclass
class Written:
    """What came of writing a batch."""

    all: bool = True
    """Whether everything was written at once, and everything is forgotten that should be."""
    failed: dict[int, str] = field(default_factory=dict)
    """Number of a job that was not stored -> why."""
