"""The survey: how many rows and bytes each user has, counted a few at a time.

How it goes, cluster by cluster: take the next users who live there and whose size is
older than ``max_age_s`` or unknown, in order of userid; count their rows in every table of
the users' (see `tables`), in queries that each read a bounded number of rows; record the
batch in ``global`` in one transaction.  There is no other state: a survey that ends in the
middle, or is killed, goes on with those whose sizes are still old, and one that was just
done has nothing to do.

It reads from the clusters' readers where they have some, and rests after each query so
that it takes ``pace`` of the time at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, or_, select

from lj_services.database import Databases, cluster_role
from lj_services.usercluster.balance.rules import SurveyRules
from lj_services.usercluster.balance.store import balance_user, record_disk, record_sizes
from lj_services.usercluster.balance.tables import CountedTable, Key, counted_tables
from lj_services.usercluster.disks import data_of, disk_of
from lj_services.usercluster.tables import LIVE, user


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What the survey did on one cluster.

    Attributes:
        clusterid: which one.
        tables: the users' tables that it found there.
        users: how many users were counted.
        rows, bytes: of those.
    """

    clusterid: int
    tables: tuple[str, ...]
    users: int = 0
    rows: int = 0
    bytes: int = 0


def due(databases: Databases, clusterid: int, rules: SurveyRules) -> int:
    """How many users of a cluster the survey would count now."""
    with databases.read("global") as connection:
        return int(
            connection.scalar(
                select(func.count())
                .select_from(user.outerjoin(balance_user, balance_user.c.userid == user.c.userid))
                .where(_is_due(clusterid, rules, time.time()))
            )
            or 0
        )


def survey(
    databases: Databases,
    clusterid: int,
    rules: SurveyRules,
    *,
    progress: Callable[[Surveyed], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Surveyed:
    """Count the users of one cluster whose sizes are old, and measure its disk.

    Args:
        databases: has ``global`` and the cluster.
        clusterid: which one.
        rules: how fast, and how old is old.
        progress: called after each batch with what was done so far.
        sleep: rests for this many seconds.

    Raises:
        SchemaNotCounted: a table of the cluster can't be counted by user; nothing was.
        DatabaseError: a database can't be reached; what was recorded stays.
    """
    role = cluster_role(clusterid)
    with databases.read(role) as connection:
        tables = counted_tables(connection)
    record_disk(databases, clusterid, data_of(databases, clusterid), disk_of(databases, clusterid))
    done = Surveyed(clusterid, tuple(counted.name for counted in tables))
    counting = _Counting(databases, role, rules, sleep)
    last = 0
    while userids := _next(databases, clusterid, rules, last):
        sizes = counting.count(tables, userids)
        with databases.write("global") as connection:
            record_sizes(connection, clusterid, sizes, int(time.time()))
        last = userids[-1]
        done = Surveyed(
            clusterid,
            done.tables,
            done.users + len(userids),
            done.rows + sum(rows for rows, _ in sizes.values()),
            done.bytes + sum(size for _, size in sizes.values()),
        )
        progress(done)
    return done


def _is_due(clusterid: int, rules: SurveyRules, now: float) -> ColumnElement[bool]:
    return (
        (user.c.clusterid == clusterid)
        & (user.c.state == LIVE)
        & or_(
            balance_user.c.userid.is_(None),
            balance_user.c.clusterid != clusterid,
            balance_user.c.surveyed_at <= int(now) - rules.max_age_s,
        )
    )


def _next(databases: Databases, clusterid: int, rules: SurveyRules, last: int) -> list[int]:
    """The next users to count, ascending."""
    with databases.read("global") as connection:
        return list(
            connection.scalars(
                select(user.c.userid)
                .select_from(user.outerjoin(balance_user, balance_user.c.userid == user.c.userid))
                .where(user.c.userid > last, _is_due(clusterid, rules, time.time()))
                .order_by(user.c.userid)
                .limit(rules.batch_users)
            )
        )


class _Counting:
    """Counts on one cluster, at the pace that the rules allow."""

    def __init__(
        self,
        databases: Databases,
        role: str,
        rules: SurveyRules,
        sleep: Callable[[float], None],
    ) -> None:
        self._databases, self._role, self._rules, self._sleep = databases, role, rules, sleep

    def count(
        self, tables: Sequence[CountedTable], userids: list[int]
    ) -> dict[int, tuple[int, int]]:
        """Rows and bytes of each of these users, who may have none."""
        sizes = dict.fromkeys(userids, (0, 0))
        for counted in tables:
            after: Key | None = None
            while True:
                started = time.monotonic()
                with self._databases.read(self._role) as connection:
                    found, after = counted.count(connection, userids, after, self._rules.chunk_rows)
                for userid, rows, size in found:
                    before = sizes[userid]
                    sizes[userid] = (before[0] + rows, before[1] + size)
                self._sleep((time.monotonic() - started) * (1 / self._rules.pace - 1))
                if after is None:
                    break
        return sizes
