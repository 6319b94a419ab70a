"""Following without a feed: compare the checksums of chunks, mend what differs, pass by pass.

For servers whose binary log can't be read, and SQLite where triggers can't tell (`noting`).  Every
pass sums each chunk on both sides; where the sums differ, the digests of the single rows tell which
keys do, and those are transferred.  What is written during a pass is found by the next one.  A pass
that is short enough for a freeze is repeated in it, where nothing is written any more: then it is
the verification too.

How long a pass takes grows with the user, so this path has its limit: a user whose pass does not
fit into the freeze limit can't be moved with it, and is told so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection

from lj_services.usercluster.mover import fences
from lj_services.usercluster.mover.discovery import Table
from lj_services.usercluster.mover.errors import RowsDiffer
from lj_services.usercluster.mover.rows import Key, Keys, Range
from lj_services.usercluster.mover.work import Work, timed

CHUNK_ROWS = 2000
BATCH = 300


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass over all of the user's rows found."""

    seconds: float
    mended: int
    """Keys that differed."""


def spans(work: Work, connection: Connection, table: Table, rows: int) -> Iterator[Range]:
    """Ranges that cover all keys of a table, those that only one side has too.

    Args:
        work: whose user's.
        connection: the side whose rows set the edges.
        table: which.
        rows: how many rows of that side are in each.
    """
    after: Key | None = None
    while True:
        upto = work.rows.edge(connection, table, work.move.userid, after, rows)
        yield Range(after, upto)
        if upto is None:
            return
        after = upto


def mend(work: Work, source: Connection, destination: Connection, table: Table) -> int:
    """Compare one table chunk by chunk and transfer what differs; returns how many keys did.

    Args:
        work: whose user's.
        source: a transaction that reads.
        destination: a transaction that may write here (`fences.importing`).
        table: which.

    Raises:
        RowsDiffer: rows differ still after they were transferred.
    """
    rows, userid = work.rows, work.move.userid
    mended = 0
    for span in spans(work, source, table, CHUNK_ROWS):
        if rows.sum(source, table, userid, span) == rows.sum(destination, table, userid, span):
            continue
        keys = differing(work, source, destination, table, span)
        mended += len(keys)
        for start in range(0, len(keys), BATCH):
            batch = Keys(tuple(keys[start : start + BATCH]))
            chunk = rows.chunk(source, table, userid, batch, None, lock=False)
            rows.erase(destination, table, userid, batch, None)
            rows.put(destination, table, chunk.rows)
            here = rows.sum(source, table, userid, batch)
            there = rows.sum(destination, table, userid, batch)
            if here != there and work.databases.writer(work.src).is_sqlite:
                raise RowsDiffer(f"{work.move}: table {table}, {batch}: checksums differ")
    return mended


def differing(
    work: Work, source: Connection, destination: Connection, table: Table, span: Range
) -> list[Key]:
    """The keys within a span whose rows are not the same on both sides."""
    here = work.rows.each(source, table, work.move.userid, span)
    there = work.rows.each(destination, table, work.move.userid, span)
    return sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))


def walk(work: Work) -> Pass:
    """One pass while the user may write; every table in transactions of its own."""
    mended = 0
    with timed() as clock:
        for table in work.found.tables:
            work.check()
            with (
                work.reading(work.src) as source,
                work.databases.write(work.dst) as destination,
            ):
                fences.importing(destination, work.move)
                mended += mend(work, source, destination, table)
        return Pass(clock(), mended)


def walk_frozen(work: Work, source: Connection, destination: Connection) -> Pass:
    """The pass under the freeze: afterwards the destination is equal, or it raises.

    Raises:
        RowsDiffer: a chunk differs though it was mended.
    """
    mended = 0
    with timed() as clock:
        for table in work.found.tables:
            changed = mend(work, source, destination, table)
            mended += changed
            if not changed:
                continue
            for span in spans(work, source, table, CHUNK_ROWS):
                here = work.rows.sum(source, table, work.move.userid, span)
                if here != work.rows.sum(destination, table, work.move.userid, span):
                    raise RowsDiffer(
                        f"{work.move}: table {table}, chunk {span}: checksums differ at the "
                        "cut-over"
                    )
        return Pass(clock(), mended)
