"""Users with things of theirs on clusters, and moves to run."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    func,
    insert,
    select,
    text,
)

from lj_services.database import Databases, cluster_role, migrate
from lj_services.usercluster import Users, UserSettings
from lj_services.usercluster import mover as package
from lj_services.usercluster.mover import (
    ClaimLost,
    Move,
    MoverSettings,
    Worker,
)
from lj_services.usercluster.mover.tables import move_marker
from lj_services.usercluster.numberspaces import allocate, declare
from lj_services.usercluster.tables import user, user_home, usercounter
from tests.support.databases import TestSite

metadata = MetaData()
_SERVER = {
    "mysql_engine": "InnoDB",
    "mariadb_engine": "InnoDB",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_collate": "utf8mb4_bin",
    "mysql_charset": "utf8mb4",
    "mariadb_charset": "utf8mb4",
}
note = Table(
    "note",
    metadata,
    Column("userid", Integer, primary_key=True, autoincrement=False),
    Column("noteid", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("body", String(2000), nullable=False),
    Column("picture", LargeBinary(1000)),
    **_SERVER,
)
tag = Table(
    "tag",
    metadata,
    Column("userid", Integer, primary_key=True, autoincrement=False),
    Column("word", String(40), primary_key=True),
    Column("noteid", Integer, primary_key=True, autoincrement=False),
    **_SERVER,
)
tally = Table(
    "tally",
    metadata,
    Column("userid", Integer, primary_key=True, autoincrement=False),
    Column("writes", BigInteger, nullable=False),
    **_SERVER,
)
declare("note", note.c.noteid)

TABLES = (note, tag, tally, usercounter)
# Every step by itself, and recorded at once: so that each can be interrupted.
FAST = MoverSettings(
    backoff_s=0.05,
    purge_pause_ms=0,
    min_free=0,
    at_once_rows=0,
    record_within_ms=0,
    feed_linger_s=0,
    freeze_limit_ms=600,  # the machine is busy
).model_copy(
    # Shorter than an operator may set them.
    update={"grace_s": 0.3, "lease_s": 0.6, "frozen_lease_s": 0.3, "attempts": 30}
)
RULES = UserSettings(min_free=0).model_copy(update={"route_ttl_s": 0})


def prepare(databases: Databases) -> None:
    """Make the mover's tables and those above on every cluster."""
    for role in databases.roles():
        migrate(databases, role, [package.COMPONENT])
    for clusterid in databases.clusters():
        with databases.write(cluster_role(clusterid)) as connection:
            metadata.create_all(connection)


def worker(site: TestSite, users: Users | None = None, **settings: Any) -> Worker:
    """A worker that is quick about everything; `settings` as in `MoverSettings`."""
    return Worker(
        site.databases,
        users or site.users(),
        FAST.model_copy(update=settings),
        RULES,
    )


def move(one: Worker, userid: int, dst: int, **options: Any) -> Move:
    """Move a user, as far as the cut-over (or the move's failure)."""
    asked = one.moves.enqueue(userid, dst, **options)
    return one.run(one.moves.claim(asked, one.name, 5.0))


def run_until(one: Worker, move_id: int, *states: str, timeout_s: float = 20.0) -> Move:
    """Let a worker do what is due until a move is in one of some states."""
    until = time.monotonic() + timeout_s
    while True:
        found = one.moves.get(move_id)
        if found.state in states:
            return found
        if time.monotonic() > until:
            events = "\n".join(f"{e.state}: {e.message}" for e in one.moves.events(move_id))
            raise AssertionError(f"{found} is {found.state}, not {states}; {found.error}\n{events}")
        claimed = one.next()
        if claimed is None:
            time.sleep(0.02)
        else:
            one.run(claimed)


def fill(databases: Databases, clusterid: int, userid: int, notes: int, size: int = 100) -> None:
    """Give a user `notes` notes (and as many tags), and the counters that go with them."""
    rows = [
        {
            "userid": userid,
            "noteid": number,
            "version": 0,
            "body": f"é{number} " + "x" * size,
            "picture": None if number % 3 else bytes(range(256)),
        }
        for number in range(1, notes + 1)
    ]
    with databases.write(cluster_role(clusterid)) as connection:
        for start in range(0, notes, 1000):
            connection.execute(insert(note), rows[start : start + 1000])
            connection.execute(
                insert(tag),
                [
                    {"userid": userid, "word": f"w{row['noteid'] % 7}", "noteid": row["noteid"]}
                    for row in rows[start : start + 1000]
                ],
            )
        connection.execute(insert(usercounter).values(userid=userid, area="note", max=notes))


def content(databases: Databases, clusterid: int, userid: int) -> dict[str, list[Any]]:
    """Everything of a user on a cluster."""
    with databases.read(cluster_role(clusterid), definitive=True) as connection:
        return {
            table.name: [
                tuple(row)
                for row in connection.execute(
                    select(table)
                    .where(table.c.userid == userid)
                    .order_by(*table.primary_key.columns)
                )
            ]
            for table in TABLES
        }


def fences(databases: Databases, userid: int) -> dict[int, str]:
    """The state of a user's fence on each cluster that knows them."""
    found = {}
    for clusterid in databases.clusters():
        with databases.read(cluster_role(clusterid), definitive=True) as connection:
            state = connection.scalar(select(user_home.c.state).where(user_home.c.userid == userid))
        if state is not None:
            found[clusterid] = state
    return found


def epoch(databases: Databases, clusterid: int, userid: int) -> int | None:
    """The epoch of a user's fence on a cluster; None: it does not know them."""
    with databases.read(cluster_role(clusterid), definitive=True) as connection:
        return connection.scalar(select(user_home.c.epoch).where(user_home.c.userid == userid))


def markers(databases: Databases) -> list[int]:
    """On which clusters a mover's marker was left."""
    found = []
    for clusterid in databases.clusters():
        with databases.read(cluster_role(clusterid), definitive=True) as connection:
            if connection.scalar(select(func.count()).select_from(move_marker)):
                found.append(clusterid)
    return found


def notes(databases: Databases) -> list[str]:
    """Tables and triggers of the mover's that were left on clusters in SQLite."""
    found: list[str] = []
    for clusterid in databases.clusters():
        role = cluster_role(clusterid)
        if databases.writer(role).is_sqlite:
            with databases.read(role, definitive=True) as connection:
                query = text("SELECT name FROM sqlite_schema WHERE name GLOB 'move_dirty_*'")
                found += connection.scalars(query)
    return found


def home(databases: Databases, userid: int) -> int:
    """The cluster that `global` says."""
    with databases.read("global", definitive=True) as connection:
        return int(
            connection.execute(select(user.c.clusterid).where(user.c.userid == userid)).scalar_one()
        )


def stop_at(monkeypatch: pytest.MonkeyPatch, step: str, what: Callable[[], None]) -> None:
    """Do something the first time that a worker of this process comes by a named step."""
    done = threading.Event()

    def crash_here(here: str) -> None:
        if here == step and not done.is_set():
            done.set()
            what()

    for name, module in list(sys.modules.items()):
        if name.startswith(f"{package.__name__}.") and hasattr(module, "crash_here"):
            monkeypatch.setattr(module, "crash_here", crash_here)


def vanish() -> None:
    """What a worker does that was killed, as far as databases see it: nothing more."""
    raise ClaimLost("this worker is dead")


class _UndoneError(Exception):
    pass


@contextmanager
def undone(databases: Databases, role: str) -> Iterator[Connection]:
    """A write transaction that is rolled back at its end."""
    with suppress(_UndoneError), databases.write(role) as connection:
        yield connection
        raise _UndoneError


def as_json(value: Any) -> str:
    """As the mover's columns keep it."""
    return json.dumps(value)


class Fixture:
    """A site with bob on cluster 1, who has twenty notes, and carl, who has none."""

    def __init__(self, site: TestSite) -> None:
        prepare(site.databases)
        self.site = site
        self.databases = site.databases
        self.users = site.users()
        self.worker = worker(site, self.users)
        self.bob = self.users.create("bob", cluster=1).userid
        self.carl = self.users.create("carl", cluster=1).userid
        fill(site.databases, 1, self.bob, 20)
        self.move: Move = None  # type: ignore[assignment]
        self.notes = [(row[1], row[3]) for row in content(site.databases, 1, self.bob)["note"]]

    def write(self) -> None:
        """Write one more note, which must be possible now."""
        with self.users.writing(self.bob) as connection:
            noteid = allocate(connection, self.bob, "note")
            connection.execute(
                insert(note).values(userid=self.bob, noteid=noteid, version=0, body="more")
            )
        self.notes.append((noteid, "more"))

    def claimed(self, lease_s: float = 30.0) -> Move:
        """A move of bob to cluster 2 that somebody has claimed and not begun."""
        return self.worker.moves.claim(self.worker.moves.enqueue(self.bob, 2), "somebody", lease_s)

    def assert_on(self, clusterid: int) -> None:
        """Bob lives there, with all of his notes, and can write."""
        assert home(self.databases, self.bob) == clusterid
        found = [(row[1], row[3]) for row in content(self.databases, clusterid, self.bob)["note"]]
        assert found == sorted(self.notes)
        self.write()
