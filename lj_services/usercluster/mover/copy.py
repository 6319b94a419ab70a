"""Copying a user's rows: chunk after chunk in the order of the primary key.

A chunk is read on the source with shared locks in a short transaction and written to the
destination in another, which takes several; a second thread reads ahead.  The locks make sure that
a row is not read in a state that its own change, already seen in the feed, is about to replace
(`feed`).  How many rows a chunk has follows from how long the last one took, since a writer who
wants one of its rows waits so long; and from its bytes, since two chunks are in memory at once.

The progress (``table``, ``after``) is saved from time to time.  A worker that takes the move over
goes on from there: rows that were written after the last save are written again.

Before the first chunk the destination is wiped of this user: a move that was given up, or an
earlier home whose grace time is not over, may have left rows.

A user with few rows goes at once: wiped, copied and summed on both sides in one transaction each.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection

from lj_services.usercluster.mover import fences
from lj_services.usercluster.mover.discovery import Table
from lj_services.usercluster.mover.metrics import BYTES, ROWS
from lj_services.usercluster.mover.rows import EVERYTHING, Chunk, Key, Range, frozen_key, thawed_key
from lj_services.usercluster.mover.work import Meter, Work, crash_here, timed

WIPE_ROWS = 1000
SAVE_EVERY_S = 1.0
FIRST_ROWS = 1000


def clear(work: Work) -> int:
    """Put up the destination's fence as ``importing``, and wipe what is there of the user.

    Returns:
        how many rows went.
    """
    with work.databases.write(work.dst) as connection:
        fences.begin_import(connection, work.move)
    return wipe(work)


def wipe(work: Work) -> int:
    """Delete what the destination has of the user; returns how many rows went.

    The destination's fence must be ``importing`` for this move.
    """
    gone = 0
    while True:
        work.check()
        with work.databases.write(work.dst) as connection:
            fences.importing(connection, work.move)
            went = _wipe_some(work, connection)
        gone += went
        if went < WIPE_ROWS:
            return gone


def _wipe_some(work: Work, destination: Connection) -> int:
    """Delete `WIPE_ROWS` rows, or as many as there are."""
    left = WIPE_ROWS
    for table in work.found.tables:
        left -= work.rows.erase(destination, table, work.move.userid, EVERYTHING, left)
        if left <= 0:
            break
    return WIPE_ROWS - left


def at_once(work: Work, source: Connection) -> bool:
    """Copy all of the user's rows in one transaction on each side, and compare them there.

    Args:
        work: with a subscription that is open already.
        source: a transaction; its shared locks on the rows last until its end.

    Returns:
        whether both sides were equal in that moment.  They need not be, since rows may be
        inserted meanwhile: then the chunks are verified as everybody's are.
    """
    with work.databases.write(work.dst) as destination:
        fences.begin_import(destination, work.move)
        if _wipe_some(work, destination) < WIPE_ROWS:
            return _all_rows(work, source, destination)
    wipe(work)
    with work.databases.write(work.dst) as destination:
        fences.importing(destination, work.move)
        return _all_rows(work, source, destination)


def _all_rows(work: Work, source: Connection, destination: Connection) -> bool:
    rows, userid, tables = work.rows, work.move.userid, work.found.tables
    copied = size = 0
    for table in tables:
        chunk = rows.chunk(source, table, userid, EVERYTHING, None, lock=True)
        rows.put(destination, table, chunk.rows)
        copied += len(chunk.rows)
        size += chunk.bytes
    equal = rows.sums(source, tables, userid) == rows.sums(destination, tables, userid)
    work.progress.update(rows=copied, bytes=size)
    ROWS.inc(copied)
    BYTES.inc(size)
    return equal


@dataclass(frozen=True, slots=True)
class _Read:
    table: Table
    chunk: Chunk
    error: BaseException | None = None


def copy(work: Work, pending: Callable[[], bool], between: Callable[[], None]) -> None:
    """Copy everything that is not copied yet.

    Args:
        work: in ``copying``; its progress says from where.
        pending: asked after each chunk whether `between` is to be called.
        between: called while no chunk is under way.
    """
    progress = work.progress
    tables = [table for table in work.found.tables if table.name >= progress.get("table", "")]
    meters: dict[str, Meter] = {}
    saved = time.monotonic()
    while tables:
        start = (
            thawed_key(progress.get("after")) if progress.get("table") == tables[0].name else None
        )
        with _Reader(work, tables, start, meters) as reader:
            while not reader.ended and not pending():
                work.check()
                with work.databases.write(work.dst) as connection:
                    fences.importing(connection, work.move)
                    until = time.monotonic() + work.between_checks_s
                    for read in reader:
                        work.rows.put(connection, read.table, read.chunk.rows)
                        progress["table"] = read.table.name
                        progress["after"] = frozen_key(read.chunk.last)
                        progress["rows"] = progress.get("rows", 0) + len(read.chunk.rows)
                        progress["bytes"] = progress.get("bytes", 0) + read.chunk.bytes
                        ROWS.inc(len(read.chunk.rows))
                        BYTES.inc(read.chunk.bytes)
                        if time.monotonic() > until:
                            break
                crash_here("chunk")
                if time.monotonic() - saved > SAVE_EVERY_S:
                    work.save()
                    saved = time.monotonic()
            if reader.ended:
                return
        # The reader has stopped, and what it had read ahead is read again: nothing that was
        # read earlier can be written later than what `between` writes.
        between()
        done = progress.get("table", "")
        tables = [table for table in tables if table.name >= done]


class _Reader:
    """Reads chunks ahead in a thread of its own."""

    def __init__(
        self, work: Work, tables: list[Table], start: Key | None, meters: dict[str, Meter]
    ) -> None:
        self.ended = False
        self._meters = meters
        self._work = work
        self._tables = tables
        self._start = start
        self._ready: queue.Queue[_Read | None] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chunk reader", daemon=True)

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.01)
            except queue.Empty:
                continue
        self._thread.join()

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> _Read:
        read = self._ready.get()
        if read is None:
            self.ended = True
            raise StopIteration
        if read.error is not None:
            raise read.error
        return read

    def _run(self) -> None:
        settings = self._work.settings
        table = self._tables[0]
        try:
            for table in self._tables:
                after = self._start if table is self._tables[0] else None
                first = min(FIRST_ROWS, max(1, settings.chunk_bytes // max(1, table.row_bytes)))
                meter = self._meters.setdefault(
                    table.name, Meter(settings.chunk_target_ms / 1000, settings.chunk_bytes, first)
                )
                while not self._stop.is_set():
                    with timed() as clock, self._work.locking(self._work.src) as connection:
                        chunk = self._work.rows.chunk(
                            connection,
                            table,
                            self._work.move.userid,
                            Range(after),
                            meter.rows,
                            lock=True,
                        )
                    if not chunk.rows:
                        break
                    wanted = meter.rows
                    meter.took(len(chunk.rows), chunk.bytes, clock())
                    self._ready.put(_Read(table, chunk))
                    after = chunk.last
                    if len(chunk.rows) < wanted:
                        break
            self._ready.put(None)
        except BaseException as error:
            self._ready.put(_Read(table, Chunk((), None, 0), error))
