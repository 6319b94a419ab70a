"""Which cluster takes a new user: a weighted draw, weight times free disk space.

Free space is that of the disk under the data (see `disks`), where somebody can tell.  An
unknown one counts as the average of the known ones, so that weights alone decide between
servers that don't tell.  Figures are kept for half a minute; a cluster that can't be
reached, or has less than ``min_free``, takes no part in the draw.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection, Mapping

from lj_services.database import DatabaseError, Databases
from lj_services.usercluster.balance.store import free_as_recorded
from lj_services.usercluster.disks import disk_of
from lj_services.usercluster.errors import NoRoom

MEASURE_EVERY_S = 30.0


def free_bytes(databases: Databases, clusterid: int) -> int | None:
    """Free disk space under a cluster's data, in bytes; None if nobody tells.

    Where it can't be seen from here, it is what the cluster's host told the coordinator lately.

    Raises:
        DatabaseError: the cluster can't be reached.
    """
    disk = disk_of(databases, clusterid)
    return free_as_recorded(databases, clusterid) if disk is None else disk.free


class Placement:
    """Draws clusters for new users.

    Args:
        databases: has the clusters.
        weights: cluster number -> weight; empty: all alike.
        min_free: bytes under which a cluster is full.
    """

    def __init__(self, databases: Databases, weights: Mapping[int, int], min_free: int) -> None:
        self._databases = databases
        self._weights = weights or dict.fromkeys(databases.clusters(), 1)
        self._min_free = min_free
        self._measured: dict[int, tuple[float, int | DatabaseError | None]] = {}
        self._lock = threading.Lock()

    def pick(self, excluding: Collection[int] = ()) -> int:
        """Draw a cluster.

        Args:
            excluding: those that were tried already.

        Raises:
            NoRoom: none takes new users; says why for each.
        """
        why_not: list[str] = []
        room: dict[int, int | None] = {}
        for clusterid, weight in self._weights.items():
            if weight == 0 or clusterid in excluding:
                continue
            free = self._measure(clusterid)
            if isinstance(free, DatabaseError):
                why_not.append(str(free))
            elif free is not None and free < self._min_free:
                why_not.append(f"cluster {clusterid}: {free >> 20} MB free, under min_free")
            else:
                room[clusterid] = free
        if not room:
            detail = "; ".join(why_not) or "every weight is 0, or there is no cluster"
            raise NoRoom(f"no cluster takes new users: {detail}")
        known = [free for free in room.values() if free is not None]
        average = sum(known) / len(known) if known else 1.0
        chances = [
            self._weights[clusterid] * max(1.0, average if free is None else free)
            for clusterid, free in room.items()
        ]
        return random.choices(list(room), chances)[0]  # noqa: S311  a draw, not a secret

    def _measure(self, clusterid: int) -> int | DatabaseError | None:
        with self._lock:
            measured = self._measured.get(clusterid)
        now = time.monotonic()
        if measured is not None and now - measured[0] < MEASURE_EVERY_S:
            return measured[1]
        result: int | DatabaseError | None
        try:
            result = free_bytes(self._databases, clusterid)
        except DatabaseError as error:
            return error  # not kept: it may be back for the next one
        with self._lock:
            self._measured[clusterid] = (now, result)
        return result
