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
import errno
import os
import random
import signal
import threading
import time
import traceback
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from disk_checker.classify import Finding, judge_block
from disk_checker.groupsync import GroupSync
from disk_checker.lane import (
    ACKED,
    FAILED,
    GROUP,
    LAST,
    TAKEN,
    TOLD,
    Lane,
    count_of,
    encode_note,
    head_of,
)
from disk_checker.plan import Plan
from disk_checker.stamp import Stamper
from disk_checker.target import Handle

_FLUSH_NS = 1_000_000
_RECENT = 4096
_MAX_TOLD = 100
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
        self._stamper = stamper
        self._lane = lane
        self._open = open_handle
        self._stop = stop
        self._origin_ns = origin_ns
        self._group = group
        self.read_back = read_back
        self._go_on = go_on
        self._out = array("Q")
        self._told = 0

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
        reader = BackReader(self, handle, self._stamper) if self.read_back else None
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
                if reader is not None:
                    reader.add(seq, [*batch, *blocks], time_us)
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
        name = errno.errorcode.get(error.errno or 0, "?")
        note: dict[str, Any] = {
            "note": "failed",
            "operation": operation,
            "first": first,
            "block": block,
            "error": name,
            "text": f"{operation} of write {first}, block {block}: {name} ({error.strerror})",
        }
        if handle is not None and operation not in ("write", "open", "none"):
            try:
                handle.sync()
                note["second_sync"] = "ok"
            except OSError as second:
                note["second_sync"] = errno.errorcode.get(second.errno or 0, "?")
        self._flush()
        kind = TOLD if operation == "open" else FAILED
        _write_all(self._lane.worker_answers, encode_note(kind, count, first, note))

    def tell(self, finding: Finding) -> None:
        """Report a fault found by reading back; the first hundred."""
        self._told += 1
        if self._told <= _MAX_TOLD:
            self._flush()
            note = {"note": "read-back", **finding.as_json()}
            _write_all(self._lane.worker_answers, encode_note(TOLD, 0, 0, note))


class BackReader:
    """Reads acknowledged blocks back while the run goes on: no cut is needed to find a
    write that was dropped, misplaced or damaged on its way."""

    def __init__(self, worker: Worker, handle: Handle, stamper: Stamper) -> None:
        self._worker = worker
        self._handle = handle
        self._recent: deque[tuple[int, int, int]] = deque(maxlen=_RECENT)
        self._every = self._left = worker.read_back
        self._stamper = stamper
        self._rng = random.Random(stamper.run)  # noqa: S311 - repeatable choices

    def add(self, seq: int, blocks: list[int], acked_us: int) -> None:
        """These writes are acknowledged; read one of the last back, if it is time."""
        for at, block in enumerate(blocks, seq):
            self._recent.append((block, at, acked_us))
        self._left -= len(blocks)
        if self._left > 0:
            return
        self._left = self._every
        block, at, acked_us = self._rng.choice(self._recent)
        try:
            data = self._handle.read(block)
        except OSError as error:
            self._worker.tell(Finding.unreadable(block, at, acked_us, str(error)))
            return
        finding = judge_block(self._stamper, block, data, at, acked_us, newest=None)
        if finding is not None and finding.fault:
            self._worker.tell(finding)


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
