"""`disk-checker create`: threads that write, sync and acknowledge until they are stopped.

The rules that make an acknowledgement worth something:

- A write is issued only after its intent is on the listener's disk.
- It is acknowledged only when the sync that *began after* it returned without error.
- A batch whose write or sync failed is never acknowledged, whatever a later sync says:
  the kernel reports a failed write-back once and then forgets it, with the pages marked
  clean.  After such an error the run stops (or, asked to go on, leaves that batch
  unacknowledged for good); and the second sync is tried once, only to show its answer.
- When the listener is gone, nothing more is written.
"""

from __future__ import annotations

import errno
import mmap
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from disk_checker.classify import Finding, judge_block
from disk_checker.errors import ListenerGone, Refused
from disk_checker.plan import Plan
from disk_checker.stamp import Stamper
from disk_checker.target import Handle
from disk_checker.workloads import Batch, batches

_AHEAD = 128
_RECENT = 4096
_MAX_ERRORS = 100


class Line(Protocol):
    """What a writer needs of the listener; see :class:`disk_checker.uplink.Uplink`."""

    run: int
    fault: Exception | None

    def intend(self, blocks: list[int]) -> int: ...
    def wait_granted(self, seq: int) -> None: ...
    def done(self, pairs: list[int]) -> None: ...
    def note(self, value: dict[str, Any]) -> None: ...


class GroupSync:
    """One sync for all threads that wait for one: a database's group commit.

    A caller is served by a sync that began after it asked; whoever finds none running
    becomes the leader and does it for all who wait.
    """

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._changed = threading.Condition()
        self._begun = 0
        self._ended = 0
        self._busy = False
        self._errors: dict[int, OSError] = {}

    def __call__(self) -> None:
        with self._changed:
            wanted = self._begun + 1
            while self._ended < wanted:
                if self._busy:
                    self._changed.wait()
                else:
                    self._lead()
            error = next((self._errors[n] for n in sorted(self._errors) if n >= wanted), None)
        if error is not None:
            raise OSError(error.errno, error.strerror)

    def _lead(self) -> None:
        self._busy = True
        self._begun += 1
        mine, failed = self._begun, None
        self._changed.release()
        try:
            self._sync()
        except OSError as error:
            failed = error
        finally:
            self._changed.acquire()
        if failed is not None:
            self._errors[mine] = failed
        self._ended = mine
        self._busy = False
        self._changed.notify_all()


@dataclass
class Progress:
    """What the threads did; read while they run."""

    writes: list[int]
    slowest_s: float = 0.0
    errors: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    read_back: int = 0
    sync_count: int = 0
    sync_s: float = 0.0

    @property
    def acked(self) -> int:
        return sum(self.writes)


class Writer:
    """A run.

    :param line: the listener.
    :param open_handle: opens the target for one thread.
    :param read_back: read an old block back after every so many writes; 0: never.
    :param go_on: after an I/O error, go on with other blocks.
    """

    def __init__(
        self,
        plan: Plan,
        line: Line,
        open_handle: Callable[[], Handle],
        *,
        read_back: int = 100,
        go_on: bool = False,
        seed: int | None = None,
    ) -> None:
        self.plan = plan
        self.line = line
        self.progress = Progress([0] * plan.threads)
        self.stop = threading.Event()
        self._open = open_handle
        self._read_back = read_back
        self._go_on = go_on
        self._seed = line.run if seed is None else seed
        self._stamper = Stamper(line.run, plan.block_size)
        self._origin = time.monotonic_ns()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._group_handle: Handle | None = None
        self._group: GroupSync | None = None

    def start(self) -> None:
        if self.plan.workload == "innodb":
            self._group_handle = self._open()
            self._group = GroupSync(self._group_handle.sync)
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"writer-{number}")
            for number in range(self.plan.threads)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for the threads; they end after :attr:`stop`, an error, or the listener's loss."""
        for thread in self._threads:
            thread.join()
        if self._group_handle is not None:
            self._group_handle.close()

    @property
    def alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _now(self) -> int:
        return (time.monotonic_ns() - self._origin) // 1000

    def _run(self, number: int) -> None:
        try:
            handle = self._open()
            try:
                self._work(number, handle)
            finally:
                handle.close()
        except (ListenerGone, Refused):
            pass  # the line keeps the reason
        except OSError as error:
            self._failed("open", 0, 0, error, None)
        finally:
            if not self._go_on or self.line.fault is not None:
                self.stop.set()

    def _work(self, number: int, handle: Handle) -> None:
        plan, line, stamper = self.plan, self.line, self._stamper
        memory = mmap.mmap(-1, max(plan.block_size, mmap.PAGESIZE))
        buffer = memoryview(memory)[: plan.block_size]
        words = buffer.cast("Q")
        work = batches(plan, number, self._seed)
        limit = max(1, min(_AHEAD, plan.blocks // plan.threads))
        recent: deque[tuple[int, int, int]] = deque(maxlen=_RECENT)
        reader = BackReader(self, handle, recent) if self._read_back else None
        ahead: deque[tuple[int, list[Batch]]] = deque()
        counts = self.progress.writes
        while not self.stop.is_set():
            while len(ahead) < 2:
                chunk: list[Batch] = []
                blocks: list[int] = []
                while len(blocks) < limit:
                    batch = next(work)
                    chunk.append(batch)
                    blocks += batch.blocks
                ahead.append((line.intend(blocks), chunk))
            seq, chunk = ahead.popleft()
            line.wait_granted(seq + sum(len(batch.blocks) for batch in chunk) - 1)
            for batch in chunk:
                if self.stop.is_set() or line.fault is not None:
                    return
                first, operation = seq, "write"
                try:
                    for block in batch.blocks:
                        stamper.write_into(buffer, words, block, seq, self._now())
                        handle.write(block, buffer)
                        seq += 1
                    operation = plan.sync
                    begun = time.perf_counter()
                    if batch.group and self._group is not None:
                        self._group()
                    else:
                        handle.sync()
                    took = time.perf_counter() - begun
                except OSError as error:
                    self._failed(operation, first, batch.blocks[-1], error, handle)
                    seq = first + len(batch.blocks)
                    if not self._go_on or len(self.progress.errors) >= _MAX_ERRORS:
                        self.stop.set()
                        return
                    continue
                acked = self._now()
                pairs: list[int] = []
                for done, block in enumerate(batch.blocks, first):
                    pairs += (done, acked)
                    recent.append((block, done, acked))
                line.done(pairs)
                counts[number] += len(batch.blocks)
                progress = self.progress
                progress.sync_count += 1
                progress.sync_s += took
                if took > progress.slowest_s:
                    progress.slowest_s = took
                if reader is not None:
                    reader.perhaps(counts[number])

    def _failed(
        self, operation: str, first: int, block: int, error: OSError, handle: Handle | None
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
        with self._lock:
            self.progress.errors.append(note["text"])
        self.line.note(note)


class BackReader:
    """Reads acknowledged blocks back while the run goes on: no cut is needed to find a
    write that was dropped, misplaced or damaged on its way."""

    def __init__(self, writer: Writer, handle: Handle, recent: deque[tuple[int, int, int]]) -> None:
        self._writer = writer
        self._handle = handle
        self._recent = recent
        self._every = writer._read_back
        self._due = self._every
        self._stamper = Stamper(writer.line.run, writer.plan.block_size)
        self._rng = random.Random(writer.line.run)  # noqa: S311 - repeatable choices

    def perhaps(self, writes: int) -> None:
        """Read one of the last blocks back, if it is time."""
        if writes < self._due:
            return
        self._due = writes + self._every
        block, seq, acked_us = self._rng.choice(self._recent)
        try:
            data = self._handle.read(block)
        except OSError as error:
            self._tell(Finding.unreadable(block, seq, acked_us, str(error)))
            return
        self._writer.progress.read_back += 1
        finding = judge_block(self._stamper, block, data, seq, acked_us, newest=None)
        if finding is not None and finding.fault:
            self._tell(finding)

    def _tell(self, finding: Finding) -> None:
        with self._writer._lock:
            findings = self._writer.progress.findings
            findings.append(finding)
            if len(findings) > _MAX_ERRORS:
                return
        self._writer.line.note({"note": "read-back", **finding.as_json()})
