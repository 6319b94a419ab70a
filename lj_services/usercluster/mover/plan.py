"""Looking before anything changes: can this user be moved there, how, and how much is it?

Used by the step ``preparing`` and by ``--dry-run``.
"""

from __future__ import annotations

from dataclasses import dataclass

from lj_services.database import Databases, cluster_role
from lj_services.usercluster.mover.config import MoverSettings
from lj_services.usercluster.mover.discovery import Schema, compare
from lj_services.usercluster.mover.errors import ClusterFull
from lj_services.usercluster.mover.known import Known, rows_of

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
    """Why the move follows by passes of checksums; None: it follows the changes."""

    @property
    def follows(self) -> str:
        """How the move follows what the user writes, for people."""
        if self.why_no_feed is not None:
            return f"passes of checksums: {self.why_no_feed}"
        return "triggers" if self.schema.engine == "sqlite" else "the binary log"


def look(
    databases: Databases,
    settings: MoverSettings,
    userid: int,
    src: int,
    dst: int,
    known: Known | None = None,
) -> Plan:
    """Look at both sides; changes nothing.

    Args:
        databases: the site's.
        settings: the site's rules.
        userid: whom.
        src: from which cluster.
        dst: to which.
        known: what is remembered of clusters; None: nothing.

    Raises:
        Unclassified: a table can't be moved.
        SchemaDiffers: the sides are not alike.
        ClusterFull: the destination has no room.
        DatabaseError: a side can't be reached.
    """
    known = known or Known(databases)
    here = cluster_role(src)
    seen, other = known.lately(src), known.lately(dst).schema
    schema = seen.schema
    with databases.read(here, definitive=True) as connection:
        counts = rows_of(databases, here).counts(connection, schema.tables, userid)
    compare((f"cluster {src}", schema), (f"cluster {dst}", other))
    size = sum(counts[table.name] * table.row_bytes for table in schema.tables)
    free = known.free(dst)
    if free is not None and free - size * ROOM < settings.min_free:
        raise ClusterFull(
            f"cluster {dst} has {free >> 20} MB free; userid {userid} needs about "
            f"{int(size * ROOM) >> 20} MB, and {settings.min_free >> 20} MB must stay free"
        )
    why_no_feed = seen.why_no_feed if settings.use_feed else "the site file says use_feed = false"
    return Plan(schema, counts, size, free, why_no_feed)
