"""From ``global`` to a snapshot: clusters as configured and measured, users as surveyed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection, func, inspect, select

from lj_services.database import Databases, cluster_role
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
from lj_services.usercluster.mover.tables import AFTER_COMMIT, user_move
from lj_services.usercluster.tables import LIVE, user

PAGE = 50_000


class CapacityUnknown(BalanceError):
    """Nobody tells how large a cluster's disk is."""


def load_snapshot(
    databases: Databases,
    settings: UserSettings,
    *,
    now: float | None = None,
) -> Snapshot:
    """Read what the planner needs.

    Args:
        databases: has ``global`` and the clusters.
        settings: the ``[users]`` table of the site file.
        now: seconds since 1970; None: the clock's.

    Raises:
        CapacityUnknown: a cluster that is not dead has no capacity, measured or configured.
        DatabaseError: ``global`` can't be reached.
    """
    numbers = databases.clusters()
    moment = time.time() if now is None else now
    with databases.read("global") as connection:
        moves = _moves(connection, moment - settings.balance.cooldown_s)
        pinned = set(connection.scalars(select(balance_pin.c.userid)))
        homes = {
            int(clusterid): int(count)
            for clusterid, count in connection.execute(
                select(user.c.clusterid, func.count())
                .where(user.c.state == LIVE)
                .group_by(user.c.clusterid)
            )
        }
        users = UserTable.joined(_surveyed(connection, numbers, pinned, moves))
        stored = np.bincount(users.cluster, weights=users.size, minlength=len(numbers))
        clusters = _clusters(
            connection,
            settings,
            numbers,
            stored.astype(np.int64).tolist(),
            moves.left_behind,
            moment,
        )
    known = np.bincount(users.cluster, minlength=len(numbers)).tolist()
    return Snapshot(
        tuple(
            replace(
                figures,
                unsurveyed=max(0, homes.get(figures.clusterid, 0) - known[i]),
                embedded=databases.writer(cluster_role(figures.clusterid)).is_sqlite,
            )
            for i, figures in enumerate(clusters)
        ),
        users,
    )


@dataclass(frozen=True, slots=True)
class _Moves:
    """What the mover's table says.

    Attributes:
        under_way: users whose move has not come to its commit point.
        recent: users who have moved within the cool-down.
        left_behind: cluster -> bytes of users who have moved away and whose rows are still
            kept there, for a grace time.
    """

    under_way: set[int]
    recent: set[int]
    left_behind: dict[int, int]


def _moves(connection: Connection, since: float) -> _Moves:
    recent = set(
        connection.scalars(select(balance_user.c.userid).where(balance_user.c.moved_at > since))
    )
    if not inspect(connection).has_table(user_move.name):
        return _Moves(set(), recent, {})  # a site without a mover
    recent.update(
        connection.scalars(select(user_move.c.userid).where(user_move.c.switched_at > since * 1000))
    )
    under_way = connection.scalars(
        select(user_move.c.active_userid).where(user_move.c.active_userid.is_not(None))
    )
    left_behind = connection.execute(
        select(user_move.c.src, func.sum(balance_user.c.bytes))
        .join(balance_user, balance_user.c.userid == user_move.c.userid)
        .where(user_move.c.state.in_(AFTER_COMMIT))
        .group_by(user_move.c.src)
    )
    return _Moves(set(under_way), recent, {src: int(size) for src, size in left_behind})


def _surveyed(
    connection: Connection, numbers: list[int], pinned: set[int], moves: _Moves
) -> Iterator[UserTable]:
    """Every surveyed user at the cluster where they live now, a page at a time."""
    query = (
        select(
            user.c.userid,
            user.c.clusterid,
            balance_user.c.clusterid,
            balance_user.c.bytes,
            balance_user.c.row_count,
            balance_user.c.write_rate,
        )
        .join(balance_user, balance_user.c.userid == user.c.userid)
        .where(user.c.state == LIVE, user.c.clusterid.in_(numbers))
        .order_by(user.c.userid)
        .limit(PAGE)
    )
    named = [
        (np.array(sorted(userids), dtype=np.int64), flag)
        for userids, flag in (
            (pinned, PINNED),
            (moves.under_way, MOVING),
            (moves.recent, RECENT),
        )
    ]
    last = 0
    while rows := connection.execute(query.where(user.c.userid > last)).all():
        # Columns at once: a Python object for each of millions of rows would take minutes.
        userid, home, surveyed_on, size, count, rate = map(np.array, zip(*rows, strict=True))
        flags = np.where(home == surveyed_on, 0, RECENT).astype(np.uint8)
        for userids, flag in named:
            flags[np.isin(userid, userids)] |= flag
        yield UserTable(
            userid.astype(np.int64),
            np.searchsorted(numbers, home).astype(np.int16),
            size.astype(np.int64),
            np.minimum(count, 2**32 - 1).astype(np.uint32),
            rate.astype(np.float32),
            flags,
        )
        last = int(rows[-1][0])


def _clusters(
    connection: Connection,
    settings: UserSettings,
    numbers: list[int],
    surveyed: list[int],
    left_behind: Mapping[int, int],
    moment: float,
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
            # Clusters on one disk share what is free on it, and each has its own data.  What
            # deleted rows left in the data's files is free, too.
            alone = sharing[row.device] < 2
            reusable = row.reusable or 0
            used = row.disk_total - row.disk_free - reusable if alone else data
            total = (
                row.disk_total if alone else data + reusable + row.disk_free // sharing[row.device]
            )
        elif said.state is ClusterState.DEAD:
            total = used = data
        else:
            raise CapacityUnknown(
                f"nobody tells how large the disk of cluster {number} is: run lj balance survey, "
                f"or write its capacity into the site file: [users.clusters.{number}] with "
                'capacity = "400g"'
            )
        # A host that has fallen silent long ago says nothing of today.
        fresh = row is not None and (row.busy_at or 0) > moment - settings.survey.max_age_s
        weight = settings.cluster_weights.get(number, 0) if settings.cluster_weights else 100
        found.append(
            ClusterFigures(
                clusterid=number,
                disk_total=max(1, total),
                # What has moved away goes when its grace time is over: it calls for no more moves.
                disk_used=max(0, used - left_behind.get(number, 0)),
                state=said.state,
                weight=weight,
                busy=row.busy if fresh and row else None,
                write_rate=row.write_rate if fresh and row else None,
            )
        )
    return found
