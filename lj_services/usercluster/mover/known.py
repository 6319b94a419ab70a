"""What a worker remembers of clusters from one move to the next, for as long as it is true.

A schema is read in full once, and then again only when the database's fingerprint (`Rows`) has
changed.  `Known.lately` believes it for `SCHEMA_S` without a look, which is good enough to begin
with: before the cut-over the source is looked at again.  Free space is believed for `ROOM_S`.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from sqlalchemy import Connection

from lj_services.database import Databases, cluster_role
from lj_services.usercluster.mover import binlog, noting
from lj_services.usercluster.mover.discovery import Schema
from lj_services.usercluster.mover.rows import Print, Rows
from lj_services.usercluster.mover.rows_server import ServerRows
from lj_services.usercluster.mover.rows_sqlite import SqliteRows
from lj_services.usercluster.placement import free_bytes

ROOM_S = 1.0
SCHEMA_S = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A cluster's database."""

    schema: Schema
    why_no_feed: str | None
    """What keeps its changes from being followed; None: nothing does."""


def rows_of(databases: Databases, role: str) -> Rows:
    """How rows are handled on a role's engine."""
    return SqliteRows() if databases.writer(role).is_sqlite else ServerRows()


class Known:
    """What is known of the clusters; thread-safe.

    Args:
        databases: the site's.
    """

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._seen: dict[int, tuple[Print, Seen]] = {}
        self._looked: dict[int, float] = {}
        self._free: dict[int, tuple[float, int | None]] = {}
        self._lock = threading.Lock()

    def look(self, connection: Connection, cluster: int) -> Seen:
        """What a cluster's database is like now.

        Args:
            connection: to it.
            cluster: its number.

        Raises:
            Unclassified: a table can't be moved.
        """
        rows = rows_of(self._databases, cluster_role(cluster))
        now = time.monotonic()
        found = rows.fingerprint(connection)
        with self._lock:
            known = self._seen.get(cluster)
            if known is not None and known[0] == found:
                self._looked[cluster] = now
                return known[1]
        schema = rows.schema(connection, f"cluster {cluster}")
        sqlite = schema.engine == "sqlite"
        why_no_feed = noting.why_not(connection, schema) if sqlite else binlog.why_not(connection)
        seen = Seen(schema, why_no_feed)
        # What changed while it was read would have changed the fingerprint.
        if found is not None and found.settled and rows.fingerprint(connection) == found:
            with self._lock:
                self._seen[cluster] = (found, seen)
                self._looked[cluster] = now
        return seen

    def lately(self, cluster: int) -> Seen:
        """What a cluster's database is like, or was a moment ago.

        Raises:
            Unclassified: a table can't be moved.
            DatabaseError: the cluster can't be reached.
        """
        with self._lock:
            if time.monotonic() - self._looked.get(cluster, -SCHEMA_S) < SCHEMA_S:
                return self._seen[cluster][1]
        with self._databases.read(cluster_role(cluster), definitive=True) as connection:
            return self.look(connection, cluster)

    def free(self, cluster: int) -> int | None:
        """Free bytes on a cluster's disk; None: nobody tells.

        Raises:
            DatabaseError: the cluster can't be reached.
        """
        now = time.monotonic()
        with self._lock:
            known = self._free.get(cluster)
        if known is not None and now - known[0] < ROOM_S:
            return known[1]
        free = free_bytes(self._databases, cluster)
        with self._lock:
            self._free[cluster] = (now, free)
        return free
