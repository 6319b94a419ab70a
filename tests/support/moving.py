"""Users with things of theirs on clusters, writers who keep a ledger, and moves to run."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from lj_services.database import CommitUnknown, DatabaseError, Databases, cluster_role, migrate
from lj_services.usercluster import UserBusy, Users, UserSettings
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


@dataclass
class Ledger:
    """What a user's writers were told was written: noteid -> (version, body)."""

    rows: dict[int, tuple[int, str]] = field(default_factory=dict)
    unsure: dict[int, tuple[tuple[int, str] | None, tuple[int, str] | None]] = field(
        default_factory=dict
    )
    """Notes whose last write got no answer: how they were before it, and would be after."""
    unanswered: int = 0
    gaps: list[float] = field(default_factory=list)
    """How long each write took, in seconds."""
    acknowledged: int = 0
    busy: int = 0
    errors: list[BaseException] = field(default_factory=list)
    history: list[tuple[int, int, str]] = field(default_factory=list)
    """When (milliseconds since 1970), which note, and what came of it."""

    def tell(self, noteid: int, what: str) -> None:
        """Add to the history."""
        self.history.append((time.time_ns() // 1_000_000, noteid, what))


class Writer(threading.Thread):
    """Posts, edits and deletes for one user, and keeps the ledger."""

    def __init__(self, users: Users, userid: int, pause_s: float = 0.0) -> None:
        super().__init__(name=f"writer of {userid}", daemon=True)
        self.ledger = Ledger()
        self._users = users
        self._userid = userid
        self._pause_s = pause_s
        self._stop_asked = threading.Event()
        self._doing: tuple[int, tuple[int, str] | None] = (0, None)

    def stop(self) -> Ledger:
        """End; returns the ledger."""
        self._stop_asked.set()
        self.join(30)
        assert not self.is_alive(), "the writer hangs"
        if self.ledger.errors:
            raise AssertionError("a writer failed") from self.ledger.errors[0]
        return self.ledger

    def run(self) -> None:
        turn = 0
        while not self._stop_asked.is_set():
            turn += 1
            began = time.monotonic()
            try:
                self._write(turn)
                self.ledger.acknowledged += 1
                self.ledger.tell(self._doing[0], f"acknowledged {self._doing[1]}")
            except CommitUnknown:
                self._unanswered()
                self.ledger.tell(self._doing[0], "unanswered")
            except (UserBusy, DatabaseError) as error:
                self.ledger.busy += 1
                self.ledger.tell(self._doing[0], f"not written, after this one: {error}")
            except BaseException as error:
                self.ledger.errors.append(error)
                return
            self.ledger.gaps.append(time.monotonic() - began)
            if self._pause_s:
                self._stop_asked.wait(self._pause_s)

    def _unanswered(self) -> None:
        """The connection broke during the commit: from now on leave that note alone."""
        ledger, (noteid, result) = self.ledger, self._doing
        ledger.unanswered += 1
        ledger.unsure[noteid] = (ledger.rows.pop(noteid, None), result)

    def _write(self, turn: int) -> None:
        ledger, userid = self.ledger, self._userid
        known = list(ledger.rows)
        what = turn % 5
        chosen = known[(turn * 7919) % len(known)] if known and what >= 3 else None
        with self._users.writing(userid) as connection:
            self._tally(connection)
            if chosen is None:
                noteid = allocate(connection, userid, "note")
                values = {"version": 0, "body": f"note {noteid}"}
                connection.execute(insert(note).values(userid=userid, noteid=noteid, **values))
                connection.execute(
                    insert(tag).values(userid=userid, noteid=noteid, word=f"w{noteid % 3}")
                )
                result: tuple[int, str] | None = (0, f"note {noteid}")
            else:
                noteid = chosen
                mine = (note.c.userid == userid, note.c.noteid == noteid)
                if what == 3:
                    version = ledger.rows[noteid][0] + 1
                    result = (version, f"edit {version}")
                    changed = connection.execute(
                        update(note).where(*mine).values(version=version, body=result[1])
                    ).rowcount
                else:
                    result = None
                    changed = connection.execute(delete(note).where(*mine)).rowcount
                    connection.execute(
                        delete(tag).where(tag.c.userid == userid, tag.c.noteid == noteid)
                    )
                assert changed == 1, f"note {noteid} is not there to be changed"
            self._doing = (noteid, result)
        if result is None:
            del ledger.rows[noteid]
        else:
            ledger.rows[noteid] = result
            # An unanswered write of that number was rolled back, which gave the number back.
            ledger.unsure.pop(noteid, None)

    def _tally(self, connection: Connection) -> None:
        mine = tally.c.userid == self._userid
        if not connection.execute(
            update(tally).where(mine).values(writes=tally.c.writes + 1)
        ).rowcount:
            connection.execute(insert(tally).values(userid=self._userid, writes=1))


@contextmanager
def writing(users: Users, userid: int, pause_s: float = 0.0) -> Iterator[Writer]:
    """A writer for the length of the block, which has written something before it."""
    writer = Writer(users, userid, pause_s)
    writer.start()
    while not writer.ledger.acknowledged and writer.is_alive():
        time.sleep(0.005)
    try:
        yield writer
    finally:
        writer._stop_asked.set()
        writer.join(30)


def assert_kept(databases: Databases, clusterid: int, userid: int, ledger: Ledger) -> None:
    """Every acknowledged write is on the cluster, exactly once, and nothing else is."""
    found = content(databases, clusterid, userid)
    notes = {row[1]: (row[2], row[3]) for row in found["note"]}
    for noteid, outcomes in ledger.unsure.items():
        assert notes.pop(noteid, None) in outcomes
    wrong = {
        noteid: (notes.get(noteid), ledger.rows.get(noteid))
        for noteid in notes.keys() | ledger.rows.keys()
        if notes.get(noteid) != ledger.rows.get(noteid)
    }
    around = {number for noteid in wrong for number in (noteid - 1, noteid, noteid + 1)}
    history = "\n".join(str(entry) for entry in ledger.history if entry[1] in around)
    assert not wrong, f"userid {userid}: found, and acknowledged: {wrong}\n{history}"
    tagged = {row[2] for row in found["tag"]} - set(ledger.unsure)
    assert tagged == set(ledger.rows), f"tags, not notes: {tagged ^ set(ledger.rows)}"
    (writes,) = (row[1] for row in found["tally"])
    most = ledger.acknowledged + ledger.unanswered
    assert ledger.acknowledged <= writes <= most, (ledger.acknowledged, writes, most)
    (counter,) = (row[2] for row in found["usercounter"])
    assert counter >= max(ledger.rows, default=0)


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
