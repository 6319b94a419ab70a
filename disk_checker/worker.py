"""One of the writer's workers: writes blocks that are ready, syncs, says so.

The rules that make an acknowledgement worth something:

- A batch is acknowledged only when the sync that *began after* its last write returned
  without error.
- A batch whose write or sync failed is never acknowledged, whatever a later sync says:
  the kernel reports a failed write-back once and then forgets it, with the pages marked
  clean.  After such an error the worker stops (or, asked to go on, leaves that batch
  unacknowledged for good); and the second sync is tried once, only to show its answer.

A worker is a process of its own (or, over a disk in memory, a thread): see `Forked` and
`Threaded`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
import traceback
from array import array
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from disk_checker.answers import ACKED, FAILED, TAKEN, TOLD, failure
from disk_checker.groupsync import GroupSync
from disk_checker.lane import GROUP, LAST, Lane, count_of, encode_note, head_of
from disk_checker.plan import Plan
from disk_checker.readback import Promise, ReadBack
from disk_checker.stamp import Stamper
from disk_checker.target import Handle

_FLUSH_NS = 1_000_000
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


class Worker:
    """Does what comes through a lane until that ends, or ``stop`` is set, or it fails.

    :param number: 0 .. plan.threads - 1.
    :param stop: one shared byte: not 0, and nothing more is written.
    :param origin_ns: the run's start on the monotonic clock.
    :param read_back: read an old block back after every so many writes; 0: never.
    :param go_on: after an I/O error, go on with the next batch.
    """

    def __init__(
        self,
        number: int,
        plan: Plan,
        stamper: Stamper,
        lane: Lane,
        open_handle: Callable[[int], Handle],
        stop: memoryview,
        origin_ns: int,
        *,
        group: GroupSync | None = None,
        read_back: int = 0,
        go_on: bool = False,
    ) -> None:
        self.plan = plan
        self._number = number
        self._back = ReadBack(stamper, read_back)
        self._lane = lane
        self._open = open_handle
        self._stop = stop
        self._origin_ns = origin_ns
        self._group = group
        self._go_on = go_on
        self._out = array("Q")

    def run(self) -> None:
        """Work; closes the worker's ends of the lane."""
        lane = self._lane
        try:
            try:
                handle = self._open(self._number)
            except OSError as error:
                self._fail("open", 0, 0, 0, error, None)
                return
            try:
                self._work(handle)
            finally:
                handle.close()
        finally:
            with contextlib.suppress(OSError):  # the writer is gone: nobody to tell
                self._flush()
            os.close(lane.worker_answers)
            os.close(lane.worker_commands)

    def _now_us(self) -> int:
        return (time.monotonic_ns() - self._origin_ns) // 1000

    def _pieces(self) -> Iterator[tuple[int, int, array[int]]]:
        """(first seq, head, blocks) of every piece."""
        rest = b""
        while True:
            self._flush()
            data = os.read(self._lane.worker_commands, 1 << 16)
            if not data:
                return
            data = rest + data
            words = array("Q", data[: len(data) & ~7])
            at, have = 0, len(words)
            while at + 2 <= have and (end := at + 2 + count_of(words[at + 1])) <= have:
                yield words[at], words[at + 1], words[at + 2 : end]
                at = end
            rest = data[at * 8 :]

    def _work(self, handle: Handle) -> None:
        slots, stop, clock = self._lane.slots.blocks, self._stop, time.monotonic_ns
        write, sync, answers = handle.write, handle.sync, self._out
        origin, acked = self._origin_ns, head_of(ACKED, 0)
        back = self._back
        index, slot_count, flushed = 0, len(slots), clock()
        batch: list[int] = []
        failed: tuple[str, OSError] | None = None
        for first, head, blocks in self._pieces():
            if stop[0]:
                return
            slot, index = index, (index + len(blocks)) % slot_count
            try:
                if failed is None:
                    for block in blocks:
                        write(block, slots[slot])
                        slot = (slot + 1) % slot_count
            except OSError as error:
                failed = ("write", error)
            if not head & LAST:
                batch.extend(blocks)
                answers.extend((head_of(TAKEN, 0), 0, 0))
                continue
            try:
                if failed is None:
                    if head & GROUP and self._group is not None:
                        self._group(sync)
                    else:
                        sync()
            except OSError as error:
                failed = (self.plan.sync, error)
            now = clock()
            count = len(batch) + len(blocks)
            seq = first - len(batch)
            if failed is not None:
                operation, reason = failed
                self._fail(operation, seq, count, blocks[-1], reason, handle)
                if not self._go_on:
                    return
                failed = None
            else:
                time_us = (now - origin) // 1000
                answers.extend((acked | count, seq, time_us))
                back.add(seq, [*batch, *blocks], time_us)
                if (promise := back.due()) is not None:
                    self._read_back(handle, promise)
            if batch:
                batch = []
            if now - flushed > _FLUSH_NS:
                self._flush()
                flushed = now

    def _flush(self) -> None:
        if self._out:
            _write_all(self._lane.worker_answers, self._out.tobytes())
            del self._out[:]

    def _fail(
        self,
        operation: str,
        first: int,
        count: int,
        block: int,
        error: OSError,
        handle: Handle | None,
    ) -> None:
        note = failure(operation, first, block, error, handle)
        self._tell(TOLD if operation == "open" else FAILED, count, first, note)

    def _read_back(self, handle: Handle, promise: Promise) -> None:
        try:
            data: bytes | OSError = handle.read(promise.block)
        except OSError as error:
            data = error
        note = self._back.judge(promise, data)
        if note is not None:
            self._tell(TOLD, 0, 0, note)

    def _tell(self, kind: int, count: int, first: int, note: dict[str, Any]) -> None:
        self._flush()
        _write_all(self._lane.worker_answers, encode_note(kind, count, first, note))


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class Task(Protocol):
    """A started worker."""

    def join(self) -> str:
        """Wait for its end; how it ended badly, "" if it did not."""

    def kill(self) -> None:
        """End it now."""


class Forked:
    """A worker as a process: no other Python thread stands in its way."""

    def __init__(self, worker: Worker, lane: Lane) -> None:
        self._pid = os.fork()
        if self._pid:
            os.close(lane.worker_commands)
            os.close(lane.worker_answers)
            return
        code = 1
        try:
            _detach(lane)
            worker.run()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def join(self) -> str:
        if self._pid <= 0:
            return ""
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        code = os.waitstatus_to_exitcode(status)
        return "" if code == 0 else f"a writing process ended with {code}"

    def kill(self) -> None:
        if self._pid > 0:
            os.kill(self._pid, signal.SIGKILL)


def _detach(lane: Lane) -> None:
    """What a new worker process keeps of its parent: its memory, its two pipes, its output."""
    # Whoever kills the writer, as a cut does, has killed its workers.
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the writer tells its workers when to stop
    kept = sorted((lane.worker_commands, lane.worker_answers))
    os.closerange(3, kept[0])
    os.closerange(kept[0] + 1, kept[1])
    os.closerange(kept[1] + 1, os.sysconf("SC_OPEN_MAX"))


class Threaded:
    """A worker as a thread: for a disk that is in this process's memory."""

    def __init__(self, worker: Worker, lane: Lane) -> None:
        self._thread = threading.Thread(target=worker.run, name="worker")
        self._thread.start()

    def join(self) -> str:
        self._thread.join()
        return ""

    def kill(self) -> None:
        """Threads can't be killed; this one ends when its lane does."""
