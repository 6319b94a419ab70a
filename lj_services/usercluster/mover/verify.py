"""Verification before the freeze: every chunk's checksum on both sides, nobody held up.

Each database sums its own rows.  Writes go on meanwhile, so a chunk may differ only because a
change has not been followed yet.  That is told apart in three steps: find the keys that differ
(reading the source's with locks); write a marker and drain the feed to it; now every change that
could explain a difference is among the dirty keys.  A key that differs and is not dirty is wrong,
and the move stops with the chunk's name: a copy that can't be explained must not become the truth.
The dirty ones are worked off, which compares them (`follow`).

From then on the destination changes only by work that is compared, so "verified" stays true and
only what the feed shows after has to be looked at in the freeze.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lj_services.usercluster.mover.discovery import Table
from lj_services.usercluster.mover.errors import RowsDiffer
from lj_services.usercluster.mover.follow import Dirty, Follower
from lj_services.usercluster.mover.rows import Key, Range, Sum
from lj_services.usercluster.mover.work import Meter, Work

TARGET_S = 0.05
SAVE_EVERY_S = 1.0


def verify(work: Work, follower: Follower, pending: Callable[[], bool]) -> int:
    """Compare all chunks; returns how many there were.

    Raises:
        RowsDiffer: a chunk differs, and no write explains it.
    """
    chunks = 0
    saved = time.monotonic()
    with ThreadPoolExecutor(1, "other side") as other_side:
        for table in work.found.tables:
            meter = Meter(TARGET_S, 1 << 62, rows=1000)
            after: Key | None = None
            while True:
                work.check()
                with work.reading(work.src) as source:
                    upto = work.rows.edge(source, table, work.move.userid, after, meter.rows)
                    span = Range(after, upto)
                    there_later = other_side.submit(_there, work, table, span)
                    began = time.monotonic()
                    here = work.rows.sum(source, table, work.move.userid, span)
                    there = there_later.result()
                meter.took(here.count, 0, time.monotonic() - began)
                chunks += 1
                if here != there:
                    explain(work, follower, table, span)
                work.progress["verified"] = work.progress.get("verified", 0) + here.count
                if pending():
                    follower.once()
                if time.monotonic() - saved > SAVE_EVERY_S:
                    work.save()
                    saved = time.monotonic()
                if upto is None:
                    break
                after = upto
    return chunks


def _there(work: Work, table: Table, span: Range) -> Sum:
    with work.reading(work.dst) as destination:
        return work.rows.sum(destination, table, work.move.userid, span)


def explain(work: Work, follower: Follower, table: Table, span: Range) -> None:
    """Work off what makes a chunk differ.

    Raises:
        RowsDiffer: keys differ without a write.
    """
    with work.locking(work.src) as source:
        here = work.rows.each(source, table, work.move.userid, span, lock=True)
    with work.reading(work.dst) as destination:
        there = work.rows.each(destination, table, work.move.userid, span)
    differing = {key for key in here.keys() | there.keys() if here.get(key) != there.get(key)}
    dirty = follower.drain()
    wrong = unexplained(differing, dirty, table)
    if wrong:
        follower.subscription.give_back(dirty)
        few = ", ".join(str(key) for key in sorted(wrong)[:5])
        raise RowsDiffer(
            f"{work.move}: table {table}, chunk {span}: {len(wrong)} rows differ between "
            f"{work.src} and {work.dst} without a write that explains it; keys {few}"
        )
    follower.apply(dirty)


def unexplained(differing: set[Key], dirty: Dirty, table: Table) -> set[Key]:
    """The differing keys of a table that are covered by no dirty one."""
    prefixes = dirty.get(table.name, set())
    lengths = {len(prefix) for prefix in prefixes}
    return {key for key in differing if not any(key[:n] in prefixes for n in lengths)}
