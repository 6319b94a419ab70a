"""Copying a user's rows: chunk after chunk in the order of the primary key.

A chunk is read on the source with shared locks in a short transaction and written to the
destination in another.  Two *lanes*, a thread each, take turns: while one writes the other reads
the next chunk, or writes that one too.  The locks make sure that a row is not read in a state that
its own change, already seen in the feed, is about to replace (`feed`).  How many rows a chunk has
follows from how long the last one took, since a writer who wants one of its rows waits so long; and
from its bytes, since it is in memory, and one statement.  Small ones are committed together.

The progress (``table``, ``after``) says up to where everything is committed, whichever lane wrote
it, and is saved from time to time.  A worker that takes the move over goes on from there: rows that
were written after it are written again.

Before the first chunk the destination is wiped of this user: a move that was given up, or an
earlier home whose grace time is not over, may have left rows.

A user with few rows goes at once: copied and summed on both sides in one transaction each.  Only if
the sums differ the destination is wiped first, and all that is done again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from lj_services.database import DatabaseBusy
from lj_services.usercluster.mover import fences
from lj_services.usercluster.mover.discovery import Table
from lj_services.usercluster.mover.metrics import BYTES, ROWS
from lj_services.usercluster.mover.rows import EVERYTHING, Chunk, Range, frozen_key, thawed_key
from lj_services.usercluster.mover.work import Meter, Work, crash_here, timed

LANES = 2
TRIES = 5
COMMIT_EVERY_S = 0.1
COMMIT_BYTES = 1 << 20
WIPE_ROWS = 1000
SAVE_EVERY_S = 1.0
FIRST_ROWS = 1000
LEAST_ROWS = 500


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
        if _all_rows(work, source, destination):
            return True
    wipe(work)  # it may differ by what was left there
    with work.databases.write(work.dst) as destination:
        fences.importing(destination, work.move)
        return _all_rows(work, source, destination)


def _all_rows(work: Work, source: Connection, destination: Connection) -> bool:
    rows, userid, tables = work.rows, work.move.userid, work.found.tables
    chunks = rows.chunks(source, tables, userid)
    copied = size = 0
    for table in tables:
        chunk = chunks[table.name]
        rows.put(destination, table, chunk.rows)
        copied += chunk.count
        size += chunk.bytes
    equal = rows.sums(source, tables, userid) == rows.sums(destination, tables, userid)
    work.progress.update(rows=copied, bytes=size)
    ROWS.inc(copied)
    BYTES.inc(size)
    return equal


def copy(work: Work, pending: Callable[[], bool], between: Callable[[], None]) -> None:
    """Copy everything that is not copied yet.

    Args:
        work: in ``copying``; its progress says from where.
        pending: asked from time to time whether `between` is to be called.
        between: called while no chunk is under way: nothing that was read earlier can be written
            later than what it writes.
    """
    meters: dict[str, Meter] = {}
    while True:
        lanes = _Lanes(work, pending, meters)
        lanes.run()
        if lanes.all_read:
            return
        between()


@dataclass(slots=True)
class _Read:
    """A chunk on its way, and the progress once it and all before it are written."""

    table: Table
    chunk: Chunk
    then: tuple[str, list[Any] | None]
    written: bool = False


class _Lanes:
    """Copies until there is nothing left, or `pending` says so."""

    def __init__(self, work: Work, pending: Callable[[], bool], meters: dict[str, Meter]) -> None:
        self.all_read = False
        self._work = work
        self._pending = pending
        self._meters = meters
        first = work.progress.setdefault("table", "")
        self._after = thawed_key(work.progress.setdefault("after", None))
        self._tables = [table for table in work.found.tables if table.name >= first]
        if self._tables and self._tables[0].name != first:
            self._after = None
        self._turn = threading.Lock()
        self._noting = threading.Lock()
        self._on_the_way: deque[_Read] = deque()
        self._stopped = False
        self._check_at = self._saved_at = time.monotonic()
        self._errors: list[BaseException] = []

    def run(self) -> None:
        """Copy; what goes wrong in a lane is raised when both have stopped."""
        others = [
            threading.Thread(target=self._lane, name=f"lane {number}", daemon=True)
            for number in range(1, LANES)
        ]
        for other in others:
            other.start()
        self._lane()
        for other in others:
            other.join()
        if self._errors:
            raise self._errors[0]

    def _lane(self) -> None:
        try:
            while (read := self._next(may_wait=True)) is not None:
                self._write(read)
                crash_here("chunk")
        except BaseException as error:
            self._stopped = True
            self._errors.append(error)

    def _next(self, *, may_wait: bool) -> _Read | None:
        """Read a chunk; None: there is none, or the lanes are to stop.

        Args:
            may_wait: this lane has no transaction open, and can be held up for as long as
                somebody likes; otherwise None also says that it is time for that.
        """
        with self._turn:
            if not self._stopped and time.monotonic() >= self._check_at:
                if not may_wait:
                    return None
                self._check()
            while self._tables and not self._stopped:
                read = self._read(self._tables[0])
                if read is not None:
                    return read
            self.all_read = not self._tables
            return None

    def _check(self) -> None:
        """May the work go on?  The other lane ends its transaction and comes here, too."""
        work = self._work
        work.check()
        if time.monotonic() - self._saved_at > SAVE_EVERY_S:
            with self._noting:
                work.save()
            self._saved_at = time.monotonic()
        self._stopped = self._stopped or self._pending()
        self._check_at = time.monotonic() + work.between_checks_s

    def _read(self, table: Table) -> _Read | None:
        """Read the next chunk of a table; None: it has no more."""
        work, meter = self._work, self._meter(table)
        span = Range(self._after)
        with timed() as clock, work.locking(work.src) as connection:
            chunk = work.rows.chunk(
                connection, table, work.move.userid, span, meter.rows, lock=True
            )
        meter.took(chunk.count, chunk.bytes, clock())
        self._after = chunk.last
        if chunk.last is None:
            self._tables.pop(0)
        if not chunk.count:
            return None
        now = self._tables[0].name if self._tables else table.name
        read = _Read(table, chunk, (now, frozen_key(chunk.last)))
        with self._noting:
            self._on_the_way.append(read)
        return read

    def _meter(self, table: Table) -> Meter:
        settings = self._work.settings
        first = min(FIRST_ROWS, max(1, settings.chunk_bytes // max(1, table.row_bytes)))
        return self._meters.setdefault(
            table.name,
            Meter(settings.chunk_target_ms / 1000, settings.chunk_bytes, first, LEAST_ROWS),
        )

    def _write(self, read: _Read) -> None:
        """Write a chunk, and if it is a small one others after it, in one transaction."""
        work, reads = self._work, [read]
        for attempt in range(TRIES):
            try:
                with work.databases.write(work.dst) as connection:
                    fences.importing(connection, work.move)
                    for one in reads:
                        work.rows.put(connection, one.table, one.chunk.rows)
                    until = time.monotonic() + COMMIT_EVERY_S
                    size = sum(one.chunk.bytes for one in reads)
                    while size < COMMIT_BYTES and time.monotonic() < until:
                        more = self._next(may_wait=False)
                        if more is None:
                            break
                        reads.append(more)
                        size += more.chunk.bytes
                        work.rows.put(connection, more.table, more.chunk.rows)
                break
            except DatabaseBusy:  # the other lane has rows that are in the way of these
                if attempt == TRIES - 1:
                    raise
        self._note(reads)

    def _note(self, reads: list[_Read]) -> None:
        """Chunks were written: the progress is up to the first one that was not yet."""
        progress = self._work.progress
        rows, size = sum(one.chunk.count for one in reads), sum(one.chunk.bytes for one in reads)
        with self._noting:
            for read in reads:
                read.written = True
            progress["rows"] += rows
            progress["bytes"] += size
            while self._on_the_way and self._on_the_way[0].written:
                progress["table"], progress["after"] = self._on_the_way.popleft().then
        ROWS.inc(rows)
        BYTES.inc(size)
