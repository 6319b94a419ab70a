"""Keep, then expunge: the source's rows after the grace time, and a destination that is given up.

Purging deletes small batches with a rest between them, so that replicas and disks keep up.  Each
batch asks `global` first whether the user lives here after all, and then, in the transaction of the
DELETE itself, holds the tombstone's row: ``moved``, with the epoch of the home that was left, and
this move's claim.  A user who comes back is given an ``importing`` fence with a later epoch before
the first of their rows arrives; the batch then finds no tombstone, and the move is over: the
newer one has taken charge of whatever lies here.

The tombstone itself stays.
"""

from __future__ import annotations

import time

from lj_services.usercluster.mover import fences, noting
from lj_services.usercluster.mover.copy import wipe
from lj_services.usercluster.mover.discovery import Schema
from lj_services.usercluster.mover.errors import ClaimLost
from lj_services.usercluster.mover.metrics import PURGED
from lj_services.usercluster.mover.rows import EVERYTHING
from lj_services.usercluster.mover.tables import DONE
from lj_services.usercluster.mover.work import Work, crash_here


def purge(work: Work) -> int:
    """Delete the source's rows; returns how many went.  The move is ``done`` then."""
    if work.superseded:
        gone, superseded = 0, True
    else:
        with work.reading(work.src) as connection:
            schema = work.rows.schema(connection, f"cluster {work.move.src}")
        gone, superseded = _expunge(work, schema)
    for role in (work.src, work.dst):
        with work.databases.write(role) as connection:
            fences.drop_marker(connection, work.move)
    crash_here("purged")
    work.progress["purged"] = work.progress.get("purged", 0) + gone
    work.advance(DONE, "a newer move owns what lies here" if superseded else f"{gone} rows deleted")
    return gone


def _expunge(work: Work, schema: Schema) -> tuple[int, bool]:
    gone = 0
    for table in schema.tables:
        while True:
            work.check()
            home = work.moves.home(work.move.userid)
            if home is not None and home[0] == work.move.src:
                return gone, True
            try:
                with work.databases.write(work.src) as connection:
                    if not fences.buried(connection, work.move):
                        return gone, True
                    went = work.rows.erase(
                        connection,
                        table,
                        work.move.userid,
                        EVERYTHING,
                        work.settings.purge_rows,
                    )
            except ClaimLost:
                return gone, True  # a newer move has staked its claim here
            gone += went
            PURGED.inc(went)
            crash_here("purge-batch")
            if went < work.settings.purge_rows:
                break
            time.sleep(work.settings.purge_pause_ms / 1000)
    return gone, False


def give_up(work: Work) -> None:
    """Undo a move before its commit point: the destination is as if it had never been asked."""
    work.undoing = True
    move = work.move
    ending, reason = str(move.ending), move.error or "asked for"
    # Also when it is queued: a worker's first steps may not be recorded yet.
    with work.databases.write(work.dst) as connection:
        imported = fences.is_importing(connection, move)
    if imported:
        with work.reading(work.dst) as connection:
            work.schema = work.rows.schema(connection, f"cluster {move.dst}")
        wipe(work)
        with work.databases.write(work.dst) as connection:
            fences.guard(connection, move)
            fences.drop_import(connection, move)
    noting.forget(work)
    for role in (work.dst, work.src):
        with work.databases.write(role) as connection:
            fences.drop_marker(connection, move)
    work.advance(ending, f"{ending}: {reason}; the source was and is the user's home")
