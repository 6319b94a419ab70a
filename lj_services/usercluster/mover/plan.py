"""Looking before anything changes: can this user be moved there, how, and how much is it?

Used by the step ``preparing`` and by ``--dry-run``.
"""

from __future__ import annotations

from dataclasses import dataclass

from lj_services.database import Databases, cluster_role
from lj_services.usercluster.mover import feed
from lj_services.usercluster.mover.config import MoverSettings
from lj_services.usercluster.mover.discovery import Schema, compare
from lj_services.usercluster.mover.errors import ClusterFull
from lj_services.usercluster.mover.rows import Rows
from lj_services.usercluster.mover.rows_server import ServerRows
from lj_services.usercluster.mover.rows_sqlite import SqliteRows
from lj_services.usercluster.placement import free_bytes

ROOM = 1.2
"""How much more than the user's own bytes must be free: indexes, pages half full."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a move would be."""

    schema: Schema
    rows: dict[str, int]
    """How many rows the user has in each table that moves."""
    bytes: int
    """About how much that is."""
    free: int | None
    """Free bytes on the destination's disk; None: nobody tells."""
    why_no_feed: str | None
    """Why the move follows by passes of checksums; None: it reads the binary log."""


def rows_of(databases: Databases, role: str) -> Rows:
    """How rows are handled on a role's engine."""
    return SqliteRows() if databases.writer(role).is_sqlite else ServerRows()


def look(databases: Databases, settings: MoverSettings, userid: int, src: int, dst: int) -> Plan:
    """Look at both sides; changes nothing.

    Raises:
        Unclassified: a table can't be moved.
        SchemaDiffers: the sides are not alike.
        ClusterFull: the destination has no room.
        DatabaseError: a side can't be reached.
    """
    here, there = cluster_role(src), cluster_role(dst)
    rows = rows_of(databases, here)
    with databases.read(here, definitive=True) as connection:
        schema = rows.schema(connection, f"cluster {src}")
        why_no_feed = (
            feed.why_not(connection) if settings.use_feed else "the site file says use_feed = false"
        )
        counts = {table.name: rows.count(connection, table, userid) for table in schema.tables}
    with databases.read(there, definitive=True) as connection:
        other = rows_of(databases, there).schema(connection, f"cluster {dst}")
    compare((f"cluster {src}", schema), (f"cluster {dst}", other))
    size = sum(counts[table.name] * table.row_bytes for table in schema.tables)
    free = free_bytes(databases, dst)
    if free is not None and free - size * ROOM < settings.min_free:
        raise ClusterFull(
            f"cluster {dst} has {free >> 20} MB free; userid {userid} needs about "
            f"{int(size * ROOM) >> 20} MB, and {settings.min_free >> 20} MB must stay free"
        )
    return Plan(schema, counts, size, free, why_no_feed)
