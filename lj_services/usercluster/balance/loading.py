"""From ``global`` to a snapshot: clusters as configured and measured, users as surveyed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, select

from lj_services.database import Databases
from lj_services.usercluster.balance.plan import BalanceError
from lj_services.usercluster.balance.rules import ClusterState
from lj_services.usercluster.balance.snapshot import (
    MOVING,
    PINNED,
    RECENT,
    ClusterFigures,
    Snapshot,
    UserTable,
)
from lj_services.usercluster.balance.store import balance_cluster, balance_pin, balance_user
from lj_services.usercluster.config import UserSettings
from lj_services.usercluster.tables import LIVE, user

PAGE = 50_000


class CapacityUnknown(BalanceError):
    """Nobody tells how large a cluster's disk is."""


def load_snapshot(
    databases: Databases,
    settings: UserSettings,
    *,
    moving: Collection[int] = (),
    now: float | None = None,
) -> Snapshot:
    """Read what the planner needs.

    Args:
        databases: has ``global`` and the clusters.
        settings: the ``[users]`` table of the site file.
        moving: users who are being moved just now.
        now: seconds since 1970; None: the clock's.

    Raises:
        CapacityUnknown: a cluster that is not dead has no capacity, measured or configured.
        DatabaseError: ``global`` can't be reached.
    """
    numbers = databases.clusters()
    index = {number: i for i, number in enumerate(numbers)}
    moment = time.time() if now is None else now
    with databases.read("global") as connection:
        pinned = set(connection.scalars(select(balance_pin.c.userid)))
        homes = {
            int(clusterid): int(count)
            for clusterid, count in connection.execute(
                select(user.c.clusterid, func.count())
                .where(user.c.state == LIVE)
                .group_by(user.c.clusterid)
            )
        }
        users = UserTable.from_rows(
            (
                row.userid,
                index[row.clusterid],
                row.bytes,
                min(row.row_count, 2**32 - 1),
                row.write_rate,
                PINNED * (row.userid in pinned)
                | MOVING * (row.userid in moving)
                | RECENT * _recent(row, moment - settings.balance.cooldown_s),
            )
            for row in _surveyed(connection)
            if row.clusterid in index
        )
        stored = np.bincount(users.cluster, weights=users.size, minlength=len(numbers))
        clusters = _clusters(connection, settings, numbers, stored.astype(np.int64).tolist())
    known = np.bincount(users.cluster, minlength=len(numbers)).tolist()
    return Snapshot(
        tuple(
            replace(figures, unsurveyed=max(0, homes.get(figures.clusterid, 0) - known[i]))
            for i, figures in enumerate(clusters)
        ),
        users,
    )


def _recent(row: Any, since: float) -> bool:
    """Moved within the cool-down, or not yet surveyed at the new place."""
    return row.clusterid != row.surveyed_on or (row.moved_at is not None and row.moved_at > since)


def _surveyed(connection: Connection) -> Iterator[Any]:
    """Every surveyed user with the cluster where they live now, in pages."""
    last = 0
    query = (
        select(
            user.c.userid,
            user.c.clusterid,
            balance_user.c.clusterid.label("surveyed_on"),
            balance_user.c.bytes,
            balance_user.c.row_count,
            balance_user.c.write_rate,
            balance_user.c.moved_at,
        )
        .join(balance_user, balance_user.c.userid == user.c.userid)
        .where(user.c.state == LIVE)
        .order_by(user.c.userid)
        .limit(PAGE)
    )
    while rows := connection.execute(query.where(user.c.userid > last)).all():
        yield from rows
        last = rows[-1].userid


def _clusters(
    connection: Connection, settings: UserSettings, numbers: list[int], surveyed: list[int]
) -> list[ClusterFigures]:
    measured = {row.clusterid: row for row in connection.execute(select(balance_cluster))}
    sharing = Counter(row.device for row in measured.values() if row.device)
    found = []
    for i, number in enumerate(numbers):
        said, row = settings.cluster(number), measured.get(number)
        data = max(surveyed[i], (row.data_bytes or 0) if row else 0)
        if said.capacity is not None:
            total, used = int(said.capacity), data
        elif row is not None and row.disk_total is not None:
            # Clusters on one disk share what is free on it, and each has its own data.
            alone = sharing[row.device] < 2
            used = row.disk_total - row.disk_free if alone else data
            total = row.disk_total if alone else data + row.disk_free // sharing[row.device]
        elif said.state is ClusterState.DEAD:
            total = used = data
        else:
            raise CapacityUnknown(
                f"nobody tells how large the disk of cluster {number} is: run lj balance survey, "
                f"or write its capacity into the site file: [users.clusters.{number}] with "
                'capacity = "400g"'
            )
        weight = settings.cluster_weights.get(number, 0) if settings.cluster_weights else 100
        found.append(
            ClusterFigures(
                clusterid=number,
                disk_total=max(1, total),
                disk_used=used,
                state=said.state,
                weight=weight,
                busy=row.busy if row else None,
                write_rate=row.write_rate if row else None,
            )
        )
    return found
