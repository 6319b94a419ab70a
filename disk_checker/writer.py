"""`disk-checker create`: announces writes, has workers do them, passes acknowledgements on.

Writing and syncing is done for each thread of the plan by the C library (``chain``) or, where
it can't, by a process that does nothing else (``worker``); this one, in one thread, does
everything else: it chooses blocks, announces them, builds those that were granted, and hands
what was acknowledged to the listener's line.  So neither the network nor Python's work on the
next block is waited for between two syncs.

- A write is issued only after its intent is on the listener's disk.
- When the listener is gone, nothing more is handed over to be written.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any, Protocol

from disk_checker import aio
from disk_checker.answers import ACKED, HOST_ERRORS, TOLD, Answer, failure
from disk_checker.chain import OPERATIONS, Chain, can_chain
from disk_checker.groupsync import GroupSync
from disk_checker.lane import Lane
from disk_checker.plan import Plan
from disk_checker.stamp import Stamper
from disk_checker.target import FileHandle, Handle
from disk_checker.worker import Forked, Task, Worker
from disk_checker.workloads import Batch, batches

_AHEAD, _LEAST_AHEAD = 128, 512
"""Writes announced at once: of each thread, and of all of them where they are few."""

_MAX_ERRORS = 100
_PACE_S = 0.001
_CHAINED_PACE_S = 0.002
"""The C library has work in its queues for some milliseconds."""

_WAIT_MS = 20


class Line(Protocol):
    """What a writer needs of the listener; see :class:`disk_checker.uplink.Uplink`."""

    run: int
    fault: Exception | None
    granted: int

    def intend(self, blocks: list[int]) -> int: ...
    def done(self, pairs: list[int]) -> None: ...
    def note(self, value: dict[str, Any]) -> None: ...
    def pump(self) -> None: ...
    def fileno(self) -> int: ...


@dataclass
class Progress:
    """What the workers did."""

    acked: int = 0
    errors: list[str] = field(default_factory=list)
    disk_errors: int = 0
    """how many of them are the disk's"""
    findings: list[dict[str, Any]] = field(default_factory=list)
    """faults found by reading back"""


@dataclass
class _Part:
    """One thread of the plan, what does it, and what it is given."""

    lane: Lane | Chain
    task: Task | None
    """the worker; None: the C library"""
    work: Iterator[Batch]

    def join(self) -> str:
        return "" if self.task is None else self.task.join()

    def kill(self) -> None:
        if self.task is not None:
            self.task.kill()


class Writer:
    """A run.

    :param line: the listener.
    :param open_handle: opens the target for one worker, by its number.
    :param read_back: read an old block back after every so many writes; 0: never.
    :param go_on: after an I/O error, go on with other blocks.
    :param launch: starts a worker; None: there are none where the C library can
        do without.
    """

    def __init__(
        self,
        plan: Plan,
        line: Line,
        open_handle: Callable[[int], Handle],
        *,
        read_back: int = 100,
        go_on: bool = False,
        seed: int | None = None,
        launch: Callable[[Worker, Lane], Task] | None = None,
    ) -> None:
        self.plan = plan
        self.line = line
        self.progress = Progress()
        self._open = open_handle
        self._read_back = read_back
        self._go_on = go_on
        self._seed = line.run if seed is None else seed
        self._launch = launch
        self._stamper = Stamper(line.run, plan.block_size)
        self._origin_ns = time.monotonic_ns()
        self._stop = memoryview(mmap(-1, 1))
        # Announced and not yet written: enough for a listener some milliseconds away.
        ahead = max(_AHEAD, _LEAST_AHEAD // plan.threads)
        self._chunk = max(1, min(ahead, plan.blocks // plan.threads))
        self._parts: list[_Part] = []

    def stop(self) -> None:
        """Let every worker end after what it is doing; safe in a signal's handler."""
        self._stop[0] = 1

    @property
    def stopped(self) -> bool:
        return self._stop[0] != 0

    def run(self, tick: Callable[[], None] = lambda: None) -> None:
        """Write until :meth:`stop`, an error, or the listener's loss.

        :param tick: called every few milliseconds.
        """
        group = GroupSync() if self.plan.workload == "innodb" else None
        try:
            chained = self._launch is None and can_chain(self.plan) and aio.works()
            for number in range(self.plan.threads):
                work = batches(self.plan, number, self._seed)
                if chained:
                    self._chain(number, work)
                else:
                    self._start(number, work, group)
            self._loop(tick)
        except BaseException:
            self.stop()
            for part in self._parts:
                part.kill()
            raise
        finally:
            for part in self._parts:
                part.lane.close()
                self._ended(part.join())

    def _chain(self, number: int, work: Iterator[Batch]) -> None:
        try:
            handle = self._open(number)
        except OSError as error:
            self._told(Answer(TOLD, 0, 0, 0, failure("open", 0, 0, error, None)))
            return
        assert isinstance(handle, FileHandle)
        chain = Chain(
            aio.Queue(handle.file, OPERATIONS),
            aio.Queue(handle.reader, 1),
            self.plan,
            self._stamper,
            handle,
            read_back=self._read_back,
            go_on=self._go_on,
        )
        self._parts.append(_Part(chain, None, work))

    def _start(self, number: int, work: Iterator[Batch], group: GroupSync | None) -> None:
        lane = Lane(self._stamper, self.plan.threads)
        worker = Worker(
            number,
            self.plan,
            self._stamper,
            lane,
            self._open,
            self._stop,
            self._origin_ns,
            group=group,
            read_back=self._read_back,
            go_on=self._go_on,
        )
        launch = self._launch or Forked
        self._parts.append(_Part(lane, launch(worker, lane), work))

    def _loop(self, tick: Callable[[], None]) -> None:
        line, poller = self.line, select.poll()
        parts = list(self._parts)
        workers = {part.lane.answers: part for part in parts if isinstance(part.lane, Lane)}
        chains = [part for part in parts if isinstance(part.lane, Chain)]
        for descriptor in (*workers, line.fileno()):
            if descriptor >= 0:
                poller.register(descriptor, select.POLLIN)
        pace = _CHAINED_PACE_S if chains else _PACE_S
        while parts:
            begun = time.monotonic()
            if not self.stopped:
                for part in parts:
                    self._provide(part)
            line.pump()
            if line.fault is not None or self.stopped:
                self.stop()
                for part in parts:
                    part.lane.hang_up()
            for descriptor, _ in poller.poll(0 if chains else _WAIT_MS):
                if (answering := workers.get(descriptor)) is not None:
                    self._collect(answering)
            for part in chains:
                self._collect(part)
            for part in [part for part in parts if part.lane.ended]:
                parts.remove(part)
                if isinstance(part.lane, Lane):
                    poller.unregister(part.lane.answers)
                self._lost(part)
            tick()
            # Much at once costs less than each by itself.
            rest = begun + pace - time.monotonic()
            if rest > 0:
                time.sleep(rest)

    def _provide(self, part: _Part) -> None:
        lane, line = part.lane, self.line
        while lane.planned < 2 * self._chunk:
            chosen: list[Batch] = []
            blocks: list[int] = []
            while len(blocks) < self._chunk:
                batch = next(part.work)
                chosen.append(batch)
                blocks += batch.blocks
            lane.plan(line.intend(blocks), chosen)
        lane.feed(line.granted, self._now_us())

    def _now_us(self) -> int:
        return (time.monotonic_ns() - self._origin_ns) // 1000

    def _collect(self, part: _Part) -> None:
        pairs: list[int] = []
        for answer in part.lane.collect(self._now_us()):
            if answer.kind == ACKED:
                for seq in range(answer.seq, answer.seq + answer.count):
                    pairs += (seq, answer.time_us)
                self.progress.acked += answer.count
            elif answer.note is not None:
                self._told(answer)
        if pairs:
            self.line.done(pairs)

    def _told(self, answer: Answer) -> None:
        note, progress = answer.note or {}, self.progress
        self.line.note(note)
        if note["note"] == "read-back":
            progress.findings.append(note)
            return
        progress.errors.append(note["text"])
        progress.disk_errors += note["error"] not in HOST_ERRORS
        if not self._go_on or len(progress.errors) >= _MAX_ERRORS:
            self.stop()

    def _lost(self, part: _Part) -> None:
        """A worker's lane ended: was it meant to?"""
        if bad := part.join():
            self._ended(bad)
            # What the others wait for may be what this one held.
            for other in self._parts:
                if other is not part:
                    other.kill()

    def _ended(self, badly: str) -> None:
        if badly and not self.stopped:
            self.progress.errors.append(badly)
            self.stop()
