"""How loaded the clusters are: what their hosts say of their disks, how far replicas are behind.

Disks: on each of a cluster's hosts runs ``lj mover host``, which reads psutil and reports.  The
busiest, and the fullest, of a cluster's hosts counts; one that falls silent counts for nothing
after a while.  Moves are held by what was said just now; balancing gets the average of a minute.

Replicas: the readers of the cluster's role in the site file are asked themselves, by a thread for
each cluster, so that a host that hangs holds up nobody else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from lj_services.database import DatabaseError, Databases, cluster_role
from lj_services.database.engines import Server
from lj_services.usercluster.balance.store import record_busy, record_space
from lj_services.usercluster.coordinator.limits import Condition
from lj_services.usercluster.disks import Disk

log = logging.getLogger(__name__)

LAG_EVERY_S = 1.0


@dataclass(slots=True)
class Said:
    """What a host said of the disk under a cluster's data.

    Attributes:
        at: when it spoke last, in seconds.
        busy: share of the time that the disk is busy; None: it can't tell.
        space: how large and how full it is; None: it did not say.
        total, count: sum and number of what it said of `busy` since `Disks.means` was asked.
    """

    at: float
    busy: float | None = None
    space: Disk | None = None
    total: float = 0.0
    count: int = 0


class Disks:
    """What hosts said of their disks.

    Args:
        silent_s: after so many seconds it counts for nothing.
    """

    def __init__(self, silent_s: float) -> None:
        self._silent_s = silent_s
        self._said: dict[int, dict[str, Said]] = {}

    def heard(
        self, cluster: int, host: str, busy: float | None, now: float, space: Disk | None = None
    ) -> None:
        """A host reports; `busy` is 0 to 1, `now` the caller's clock in seconds."""
        said = self._said.setdefault(cluster, {}).setdefault(host, Said(now))
        said.at, said.busy, said.space = now, busy, space
        if busy is not None:
            said.total += busy
            said.count += 1

    def _speaking(self, now: float) -> Iterator[tuple[int, dict[str, Said]]]:
        for cluster, hosts in self._said.items():
            for host in [h for h, said in hosts.items() if now - said.at > self._silent_s]:
                del hosts[host]
            if hosts:
                yield cluster, hosts

    def busiest(self, now: float) -> dict[int, tuple[float, str]]:
        """Cluster -> how busy its busiest disk is, and on which host."""
        return {
            cluster: max(told)
            for cluster, hosts in self._speaking(now)
            if (told := [(s.busy, host) for host, s in hosts.items() if s.busy is not None])
        }

    def means(self, now: float) -> dict[int, float]:
        """Cluster -> how busy its busiest disk was on the average since this was asked last."""
        found = {}
        for cluster, hosts in self._speaking(now):
            told = [said.total / said.count for said in hosts.values() if said.count]
            if told:
                found[cluster] = max(told)
            for said in hosts.values():
                said.total, said.count = 0.0, 0
        return found

    def fullest(self, now: float) -> dict[int, Disk]:
        """Cluster -> its disk with the least room."""
        return {
            cluster: min(told, key=lambda disk: disk.free)
            for cluster, hosts in self._speaking(now)
            if (told := [said.space for said in hosts.values() if said.space is not None])
        }


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a cluster's worst replica is behind; or why that can't be said."""

    seconds: float | None
    why: str | None
    of: str


class Replicas:
    """Watches how far replicas are behind, on threads of its own.

    Args:
        databases: the site's; a role without readers, or with ``max_lag_s = 0`` (they do not
            replicate by themselves), has nothing to be watched.
    """

    def __init__(self, databases: Databases) -> None:
        self.lags: dict[int, Lag] = {}
        """Cluster -> what was found last."""
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._watch, args=(cluster, servers), name=f"lag of {cluster}", daemon=True
            )
            for cluster in databases.clusters()
            if (servers := databases.replicas(cluster_role(cluster)))
        ]

    def start(self) -> None:
        """Begin to look."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Look no more; does not wait for a look that hangs."""
        self._stop.set()

    def _watch(self, cluster: int, servers: list[Server]) -> None:
        while not self._stop.wait(LAG_EVERY_S):
            worst = Lag(None, None, "")
            for server in servers:
                found = look(server)
                if found.why is not None:
                    worst = found
                    break
                if worst.seconds is None or (found.seconds or 0) > worst.seconds:
                    worst = found
            self.lags[cluster] = worst


def look(server: Server) -> Lag:
    """How far a replica is behind.

    Source: MariaDB's SHOW REPLICA STATUS.
    """
    if server.is_sqlite:
        return Lag(0.0, None, server.label)
    try:
        with server.connect("probe") as connection:
            row = connection.execute(text("SHOW REPLICA STATUS")).mappings().first()
    except (DatabaseError, DBAPIError) as error:
        return Lag(None, f"can't be asked: {error}"[:200], server.label)
    if row is None:
        return Lag(None, "it replicates from nowhere", server.label)
    lag = row.get("Seconds_Behind_Master", row.get("Seconds_Behind_Source"))
    if lag is None:
        return Lag(None, "replication is stopped", server.label)
    return Lag(float(lag), None, server.label)


def together(
    lags: Mapping[int, Lag], disks: Mapping[int, tuple[float, str]]
) -> dict[int, Condition]:
    """Every cluster's condition."""
    found = {}
    for cluster in {*lags, *disks}:
        lag = lags.get(cluster, Lag(None, None, ""))
        busy, host = disks.get(cluster, (None, ""))
        found[cluster] = Condition(lag.seconds, lag.why, lag.of, busy, host)
    return found


def record(databases: Databases, busy: Mapping[int, float], space: Mapping[int, Disk]) -> None:
    """Tell balancing how busy and how full clusters' disks are; that it can't be is logged."""
    try:
        for cluster, share in busy.items():
            record_busy(databases, cluster, share)
        for cluster, disk in space.items():
            record_space(databases, cluster, disk)
    except (DatabaseError, DBAPIError) as error:
        log.warning("could not record how disks are: %s", error)
