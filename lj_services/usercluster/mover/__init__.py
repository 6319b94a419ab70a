"""Moving a user to another cluster while they write: nobody notices, nothing is lost.

Where things are, along the way of one move::

    requests.py     what operators ask of moves ...
    moves.py        ... and workers' claims, leases, the commit point: conditional UPDATEs ...
    states.py       ... by the rules of the state machine; records.py reads them
    worker.py       takes a move from the table and brings it on; what becomes of errors
    journey.py      the straight way of one move, step by step:
    recovery.py       what is done first with a move that somebody left in whatever state
    plan.py           both sides compared, room on the destination: before anything changes
    copy.py           rows in the order of the primary key, chunks sized by time
    follow.py         what was written meanwhile is worked off ...
    passes.py         ... or, where nothing tells what, checksums are compared and mended
    verify.py         every chunk's checksum on both sides, before anybody is held up
    cutover.py        freeze, drain, commit point, tombstone: the few milliseconds
    numbers.py        numberspaces carried over
    purge.py          the source's rows after the grace time; or the destination, given up
    feed.py         the source's binary log as dirty keys; binlog.py what such a log is,
                    stream.py its events, subscription.py what one user has of it, feeds.py those
                    of a worker
    noting.py       the same on SQLite: triggers, for as long as the move lasts
    rates.py        what feeds count by the way: how much each user writes, for balancing

and underneath: ``work.py`` (what the steps share: the claimed move, its records, its lease),
``fences.py`` (what may change on a cluster, and under whose claim), ``discovery.py`` (which tables
are the users', found by looking) and ``known.py`` (what is remembered of that), ``rows.py`` with
``rows_server.py`` and ``rows_sqlite.py`` (one user's rows on either engine; ``schema_server.py``
and ``literals.py`` belong to the former), ``presence.py`` (a worker among others), ``tables.py``,
``config.py``, ``errors.py``.

What makes it safe is in three places: the fence (`lj_services.usercluster.fence`) lets one cluster
accept a user's writes; the commit point (`states`) is one transaction; and every claim is
known to the clusters before it changes them (`fences`).
"""

from lj_services.database import Component
from lj_services.usercluster.mover.config import MoverSettings
from lj_services.usercluster.mover.discovery import stays
from lj_services.usercluster.mover.errors import (
    AlreadyMoving,
    ClaimLost,
    ClusterFull,
    Contradiction,
    MoveError,
    MoveRefused,
    RowsDiffer,
    SameCluster,
    SchemaDiffers,
    Unclassified,
    UnknownMove,
)
from lj_services.usercluster.mover.moves import Moves
from lj_services.usercluster.mover.states import Event, Move
from lj_services.usercluster.mover.worker import Worker

COMPONENT = Component("mover", "lj_services.usercluster.mover")
"""The tables of this package, for ``lj db migrate``."""

__all__ = [
    "COMPONENT",
    "AlreadyMoving",
    "ClaimLost",
    "ClusterFull",
    "Contradiction",
    "Event",
    "Move",
    "MoveError",
    "MoveRefused",
    "MoverSettings",
    "Moves",
    "RowsDiffer",
    "SameCluster",
    "SchemaDiffers",
    "Unclassified",
    "UnknownMove",
    "Worker",
    "stays",
]
