"""A small application whose users' rows can be in three versions, and people who use it.

Version 1: a counter of entries is not kept.  Version 2: ``total.entries`` has their number.
Version 3: it also has the length of their bodies.
"""

from __future__ import annotations

from sqlalchemy import Column, Connection, Integer, Table, delete, func, insert, select, update

from lj_services.database import Databases, cluster_role
from lj_services.usercluster import Users, UserSettings, versions
from lj_services.usercluster.numberspaces import allocate
from lj_services.usercluster.upgrade import Upgrader
from tests.support.databases import TestSite
from tests.support.mover import entry, metadata

total = Table(
    "total",
    metadata,
    Column("userid", Integer, primary_key=True, autoincrement=False),
    Column("entries", Integer, nullable=False),
    Column("letters", Integer, nullable=False),
    mysql_engine="InnoDB",
    mariadb_engine="InnoDB",
)
BODY = "sixsix"


def to_2(connection: Connection, userid: int) -> None:
    """Count the entries."""
    connection.execute(delete(total).where(total.c.userid == userid))
    count = connection.scalar(
        select(func.count()).select_from(entry).where(entry.c.userid == userid)
    )
    connection.execute(insert(total).values(userid=userid, entries=count, letters=0))


def to_3(connection: Connection, userid: int) -> None:
    """Add up the letters."""
    letters = connection.scalar(
        select(func.coalesce(func.sum(func.length(entry.c.body)), 0)).where(
            entry.c.userid == userid
        )
    )
    connection.execute(update(total).where(total.c.userid == userid).values(letters=letters))


def declare_steps() -> None:
    """Make these the steps of this process, in place of others."""
    versions._declared.clear()
    versions.declare(2, "entries are counted", to_2)
    versions.declare(3, "letters are counted", to_3)


def upgrader(site: TestSite, users: Users | None = None, **settings: float) -> Upgrader:
    """One for a site; `settings` as in `UserSettings`."""
    rules = UserSettings.model_validate({"min_free": 0, **settings})
    return Upgrader(site.databases, users or site.users(), rules)


def write_entry(users: Users, userid: int) -> int:
    """Write one, in the form of the version that the user is in; returns that version."""
    with users.writing(userid) as connection:
        version = versions.of(connection)
        number = allocate(connection, userid, "entry")
        connection.execute(insert(entry).values(userid=userid, entryid=number, body=BODY))
        values = {"entries": total.c.entries + 1} if version >= 2 else {}
        if version >= 3:
            values["letters"] = total.c.letters + len(BODY)
        if values:
            changed = connection.execute(
                update(total).where(total.c.userid == userid).values(**values)
            )
            assert changed.rowcount == 1
    return version


def read_total(users: Users, userid: int) -> tuple[int, int, int]:
    """The version, and the entries and letters as a page of the application would read them."""
    with users.reading(userid) as connection:
        version = versions.read(connection, [userid])[userid]
        counted = connection.execute(
            select(func.count(), func.coalesce(func.sum(func.length(entry.c.body)), 0)).where(
                entry.c.userid == userid
            )
        ).one()
        kept = connection.execute(
            select(total.c.entries, total.c.letters).where(total.c.userid == userid)
        ).first()
    entries = counted[0] if version < 2 or kept is None else kept.entries
    letters = counted[1] if version < 3 or kept is None else kept.letters
    assert (entries, letters) == (counted[0], counted[1]), f"version {version}: {kept} {counted}"
    return version, int(entries), int(letters)


def rows_of(databases: Databases, clusterid: int, userid: int) -> int:
    """How many entries a cluster has of a user."""
    with databases.read(cluster_role(clusterid), definitive=True) as connection:
        return int(
            connection.scalar(
                select(func.count()).select_from(entry).where(entry.c.userid == userid)
            )
            or 0
        )
