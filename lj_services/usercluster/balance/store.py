"""What balancing knows, in tables of ``global``: sizes, disks, pinned users.

Who writes what: the survey writes sizes and disks; the mover's workers, who read the
clusters' change feeds, write the users' write rates (`record_write_rates`); the coordinator,
whom the clusters' hosts tell, writes how busy and how full their disks are (`record_busy`,
`record_space`); the operator pins users.
All times are seconds since 1970 (UTC).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import OperationalError, ProgrammingError

from lj_services.database import Component, Databases
from lj_services.usercluster.disks import Data, Disk
from lj_services.usercluster.tables import LIVE, user

COMPONENT = Component("balance", "lj_services.usercluster.balance")
"""These tables, for ``lj db migrate``."""

metadata = MetaData()

balance_user = Table(
    "balance_user",
    metadata,
    Column("userid", Integer, primary_key=True, autoincrement=False),
    Column("clusterid", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("row_count", BigInteger, nullable=False),
    Column("write_rate", Double, nullable=False),
    Column("surveyed_at", BigInteger, nullable=False),
    Column("moved_at", BigInteger),
)
"""A user's size on ``clusterid``; ``moved_at``: when they were first seen to live there."""

balance_cluster = Table(
    "balance_cluster",
    metadata,
    Column("clusterid", Integer, primary_key=True, autoincrement=False),
    Column("data_bytes", BigInteger),
    Column("disk_total", BigInteger),
    Column("disk_free", BigInteger),
    Column("device", String(200)),
    Column("measured_at", BigInteger),
    Column("busy", Double),
    Column("write_rate", Double),
    Column("busy_at", BigInteger),
    Column("reusable", BigInteger),
)
"""A cluster's data and disk; what is not known is NULL."""

balance_pin = Table(
    "balance_pin",
    metadata,
    Column("userid", Integer, primary_key=True, autoincrement=False),
    Column("why", String(200), nullable=False),
    Column("pinned_at", BigInteger, nullable=False),
)
"""Users who stay where they are."""

GOOD_S = 600
"""Seconds for which free space that a host told is good enough to go by."""
_AT_ONCE = 1000
"""Rows that one statement names at most."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A user who stays where they are, and why."""

    userid: int
    name: str
    why: str
    pinned_at: int


def record_sizes(
    connection: Connection, clusterid: int, sizes: Mapping[int, tuple[int, int]], at: int
) -> int:
    """Record users' sizes; users who have left the cluster meanwhile are passed over.

    Args:
        connection: writes ``global``.
        clusterid: where they were counted.
        sizes: userid -> (rows, bytes).
        at: when.

    Returns:
        how many were recorded.
    """
    there = set(
        connection.scalars(
            select(user.c.userid).where(
                user.c.userid.in_(list(sizes)), user.c.clusterid == clusterid, user.c.state == LIVE
            )
        )
    )
    if not there:
        return 0
    known = {
        row.userid: row
        for row in connection.execute(
            select(balance_user).where(balance_user.c.userid.in_(there)).with_for_update()
        )
    }
    connection.execute(delete(balance_user).where(balance_user.c.userid.in_(list(known))))
    values = []
    for userid in sorted(there):
        rows, size = sizes[userid]
        before = known.get(userid)
        moved_at = None
        if before is not None:
            moved_at = before.moved_at if before.clusterid == clusterid else at
        values.append(
            {
                "userid": userid,
                "clusterid": clusterid,
                "bytes": size,
                "row_count": rows,
                "write_rate": before.write_rate if before is not None else 0.0,
                "surveyed_at": at,
                "moved_at": moved_at,
            }
        )
    connection.execute(insert(balance_user), values)
    return len(values)


def record_write_rates(databases: Databases, rates: Mapping[int, float]) -> None:
    """Record users' writes a second, as a change feed counts them.

    Users whom the survey has not met yet are passed over.

    Args:
        databases: has ``global``.
        rates: userid -> writes a second; those that fell to 0 as well.
    """
    change = (
        update(balance_user)
        .where(balance_user.c.userid == bindparam("who"))
        .values(write_rate=bindparam("rate"))
    )
    values = [{"who": userid, "rate": rate} for userid, rate in sorted(rates.items())]
    for start in range(0, len(values), _AT_ONCE):
        with databases.write("global") as connection:
            connection.execute(change, values[start : start + _AT_ONCE])


def record_disk(databases: Databases, clusterid: int, data: Data, disk: Disk | None) -> None:
    """Record a cluster's data and, if somebody could tell, its disk."""
    _record_cluster(
        databases,
        clusterid,
        data_bytes=data.size,
        reusable=data.reusable,
        **(_space(disk) if disk else {}),
    )


def record_space(databases: Databases, clusterid: int, disk: Disk) -> None:
    """Record how large and how full a cluster's disk is, as its host says."""
    _record_cluster(databases, clusterid, **_space(disk))


def _space(disk: Disk) -> dict[str, object]:
    return {
        "disk_total": disk.total,
        "disk_free": disk.free,
        "device": disk.device[:200],
        "measured_at": int(time.time()),
    }


def free_as_recorded(databases: Databases, clusterid: int) -> int | None:
    """Free bytes on a cluster's disk as its host said lately; None: nobody did.

    Raises:
        DatabaseError: ``global`` can't be reached.
    """
    query = select(balance_cluster.c.disk_free).where(
        balance_cluster.c.clusterid == clusterid,
        balance_cluster.c.measured_at > int(time.time()) - GOOD_S,
    )
    with databases.read("global") as connection:
        try:
            return connection.scalar(query)
        except (OperationalError, ProgrammingError):
            return None  # a site that has no tables for balancing


def record_busy(
    databases: Databases, clusterid: int, busy: float, write_rate: float | None = None
) -> None:
    """Record how busy a cluster's disk is, as its host's figures say.

    Args:
        databases: has ``global``.
        clusterid: which one.
        busy: share of the time, 0 to 1; best smoothed over minutes.
        write_rate: rows a second that the cluster writes; None: the sum of its users'.
    """
    _record_cluster(
        databases, clusterid, busy=busy, write_rate=write_rate, busy_at=int(time.time())
    )


def _record_cluster(databases: Databases, clusterid: int, **values: object) -> None:
    which = balance_cluster.c.clusterid == clusterid
    with databases.write("global") as connection:
        there = connection.execute(
            select(balance_cluster.c.clusterid).where(which).with_for_update()
        )
        if there.first() is None:
            connection.execute(insert(balance_cluster).values(clusterid=clusterid, **values))
        else:
            connection.execute(update(balance_cluster).where(which).values(**values))


def pin(databases: Databases, userids: Iterable[int], why: str) -> None:
    """Keep users where they are: no plan moves them."""
    with databases.write("global") as connection:
        for userid in userids:
            connection.execute(delete(balance_pin).where(balance_pin.c.userid == userid))
            connection.execute(
                insert(balance_pin).values(userid=userid, why=why[:200], pinned_at=int(time.time()))
            )


def unpin(databases: Databases, userids: Collection[int]) -> int:
    """Let plans move users again; returns how many of them were pinned."""
    with databases.write("global") as connection:
        return connection.execute(
            delete(balance_pin).where(balance_pin.c.userid.in_(userids))
        ).rowcount


def pins(databases: Databases) -> list[Pin]:
    """The pinned users."""
    with databases.read("global") as connection:
        rows = connection.execute(
            select(balance_pin, user.c.name)
            .join(user, user.c.userid == balance_pin.c.userid)
            .order_by(user.c.name)
        ).all()
    return [Pin(row.userid, row.name, row.why, row.pinned_at) for row in rows]
