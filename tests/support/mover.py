"""The least that moves a user between clusters, to try the fence: freeze, copy, switch.

It keeps the rules that `lj_services.usercluster.fence` sets for movers.  It copies
while the user is frozen, so it is only for small users.
"""

from __future__ import annotations

import time

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, delete, insert, select
from sqlalchemy import update as sql_update

from lj_services.database import Databases, cluster_role
from lj_services.usercluster.tables import user, user_home, usercounter

metadata = MetaData()
entry = Table(
    "entry",
    metadata,
    Column("userid", Integer, primary_key=True, autoincrement=False),
    Column("entryid", Integer, primary_key=True, autoincrement=False),
    Column("body", String(100), nullable=False),
    mysql_engine="InnoDB",
    mariadb_engine="InnoDB",
)


def make_entry_table(databases: Databases) -> None:
    """Make the table ``entry`` on every cluster."""
    for clusterid in databases.clusters():
        with databases.write(cluster_role(clusterid)) as connection:
            metadata.create_all(connection)


def set_home(connection: Connection, userid: int, **values: object) -> None:
    """Change a fence row, or make it."""
    changed = connection.execute(
        sql_update(user_home).where(user_home.c.userid == userid).values(**values)
    ).rowcount
    if not changed:
        defaults = {"readonly": False, "move_id": None, **values}
        connection.execute(insert(user_home).values(userid=userid, **defaults))


def move(databases: Databases, userid: int, *, hold_s: float = 0.0) -> int:
    """Move a user to the next cluster; returns its number.

    Args:
        databases: has ``global`` and the clusters.
        userid: whom.
        hold_s: how much longer the user stays frozen, in seconds.
    """
    with databases.read("global", definitive=True) as connection:
        row = connection.execute(
            select(user.c.clusterid, user.c.epoch).where(user.c.userid == userid)
        ).one()
    clusters = databases.clusters()
    source = int(row.clusterid)
    target = clusters[(clusters.index(source) + 1) % len(clusters)]
    epoch = int(row.epoch)
    on_source, on_target = cluster_role(source), cluster_role(target)

    with databases.write(on_target) as connection:
        for table in (entry, usercounter):
            connection.execute(delete(table).where(table.c.userid == userid))
        set_home(connection, userid, state="importing", epoch=epoch + 1)
    with databases.write(on_source) as connection:
        set_home(connection, userid, state="frozen")
    time.sleep(hold_s)
    with databases.read(on_source, definitive=True) as reading:
        rows = {
            table: [dict(found) for found in reading.execute(
                select(table).where(table.c.userid == userid)
            ).mappings()]
            for table in (entry, usercounter)
        }  # fmt: skip
        flags = dict(reading.execute(
            select(user_home.c.readonly, user_home.c.schema_ver).where(
                user_home.c.userid == userid
            )
        ).mappings().one())  # fmt: skip
    with databases.write(on_target) as connection:
        for table, found in rows.items():
            if found:
                connection.execute(insert(table), found)
        set_home(connection, userid, state="active", **flags)
    with databases.write("global") as connection:
        connection.execute(
            sql_update(user)
            .where(user.c.userid == userid, user.c.epoch == epoch)
            .values(clusterid=target, epoch=epoch + 1, rev=user.c.rev + 1)
        )
    with databases.write(on_source) as connection:
        set_home(connection, userid, state="moved")
    return target


def entries(databases: Databases, clusterid: int, userid: int) -> set[int]:
    """The numbers of a user's entries on one cluster."""
    with databases.read(cluster_role(clusterid), definitive=True) as connection:
        return set(connection.scalars(select(entry.c.entryid).where(entry.c.userid == userid)))
