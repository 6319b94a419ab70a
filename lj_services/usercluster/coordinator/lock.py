"""One coordinator at a time: a lock in the database, and a term that outlives it.

The lock keeps a second coordinator from starting.  On a server it is ``GET_LOCK``, held by a
connection that is used for nothing else: the server gives it up when the connection ends, however
that happens.  On SQLite it is a lock on a file beside the database, held by the process's open
file: the kernel gives it up when the process ends.

That alone is not enough: a coordinator may learn late that its connection broke, while the next
one has started.  So whoever gets the lock counts the *term* up in `global`, and every claim is made
in a transaction that reads the term under a shared lock first (`Lock.check`).  Once a new
coordinator has counted it up, the claims of the old one fail.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from lj_services.database import Databases, DatabaseUnreachable
from lj_services.usercluster.coordinator.errors import AnotherRules
from lj_services.usercluster.coordinator.tables import mover_coordinator
from lj_services.usercluster.mover.tables import now_ms

ROW = 1
SEEN_S = 10.0
"""Seconds after which a coordinator that gave no sign of life counts as gone."""


class Lock:
    """The right to coordinate.

    Args:
        databases: has ``global``.
        address: where clients reach this coordinator.
    """

    def __init__(self, databases: Databases, address: str) -> None:
        self._databases = databases
        self._address = address
        self._held = ExitStack()
        self._connection: Connection | None = None
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.term = 0
        self.held = False
        """Whether nothing has shown yet that it is lost."""

    def take(self) -> int:
        """Take the lock and begin a term; returns its number.

        Raises:
            AnotherRules: somebody else has it.
            DatabaseError: ``global`` can't be reached.
        """
        server = self._databases.writer("global")
        try:
            if server.is_sqlite:
                self._take_file(Path(f"{server.url.database}.coordinator"))
            else:
                connection = self._held.enter_context(server.connect("schema"))
                # Nobody speaks on it for long: the server must not take that for an end.
                connection.execute(text("SET SESSION wait_timeout = 2147483"))
                got = connection.scalar(
                    text("SELECT GET_LOCK(CONCAT('lj_coordinator_', MD5(DATABASE())), 0)")
                )
                connection.commit()
                if got != 1:
                    raise self._another()
                self._connection = connection
            self.term = self._begin_term()
        except BaseException:
            self.release()
            raise
        self.held = True
        return self.term

    def _take_file(self, path: Path) -> None:
        file = self._held.enter_context(path.open("ab"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._another() from None

    def _another(self) -> AnotherRules:
        found = ruling(self._databases, seen_s=1e9)
        who = f"{found[1]}, {found[0] or 'no address'}" if found else "its name is not known yet"
        return AnotherRules(f"another coordinator holds the lock ({who}); end that one first")

    def _begin_term(self) -> int:
        values = {"name": self.name, "address": self._address, "seen_at": now_ms()}
        with self._databases.write("global") as connection:
            which = mover_coordinator.c.id == ROW
            changed = connection.execute(
                update(mover_coordinator)
                .where(which)
                .values(term=mover_coordinator.c.term + 1, **values)
            ).rowcount
            if not changed:
                connection.execute(insert(mover_coordinator).values(id=ROW, term=1, **values))
            return int(
                connection.execute(select(mover_coordinator.c.term).where(which)).scalar_one()
            )

    def check(self, connection: Connection, *, changes: bool = False) -> None:
        """Inside a transaction on ``global``: is this still the one that rules?

        Args:
            connection: the transaction.
            changes: it is going to write the lock's row, for which others are kept out at once: two
                who had read it would wait for each other.

        Raises:
            AnotherRules: it is not; the transaction must end.
        """
        term = connection.execute(
            select(mover_coordinator.c.term)
            .where(mover_coordinator.c.id == ROW)
            .with_for_update(read=not changes)
        ).scalar()
        if term != self.term:
            raise AnotherRules(f"term {self.term} is over: another coordinator has term {term}")

    def renew(self) -> None:
        """Give a sign of life; on a server, see that the lock is still held.

        Raises:
            AnotherRules: the term is over.
            DatabaseUnreachable: the lock is lost: take it again (`retake`).
        """
        if not self.held:
            raise DatabaseUnreachable("the lock is lost")
        with self._databases.write("global") as connection:
            self.check(connection, changes=True)
            connection.execute(
                update(mover_coordinator)
                .where(mover_coordinator.c.id == ROW)
                .values(seen_at=now_ms())
            )
        if self._connection is not None:
            try:
                self._connection.execute(text("SELECT 1"))
                self._connection.commit()
            except DBAPIError as error:
                raise DatabaseUnreachable(f"the lock's connection broke: {error.orig}") from error

    def retake(self) -> int:
        """Take the lock once more after its connection broke; a new term begins.

        Raises:
            AnotherRules, DatabaseError: as `take`.
        """
        self.release()
        return self.take()

    def release(self) -> None:
        """Let somebody else rule."""
        self.held = False
        self._connection = None
        self._held.close()

    def sign_off(self) -> None:
        """Take the address back, so that nobody looks for this coordinator.

        Raises:
            DatabaseError: ``global`` can't be reached.
        """
        with self._databases.write("global") as connection:
            connection.execute(
                update(mover_coordinator)
                .where(mover_coordinator.c.id == ROW, mover_coordinator.c.term == self.term)
                .values(address=None, seen_at=0)
            )


def ruling(databases: Databases, seen_s: float = SEEN_S) -> tuple[str | None, str] | None:
    """Where the coordinator is that rules now, and its name; None: there is none.

    Args:
        databases: has ``global``.
        seen_s: how old its last sign of life may be, in seconds.

    Raises:
        DatabaseError: ``global`` can't be reached, or has no such table yet.
    """
    with databases.read("global", definitive=True) as connection:
        row = connection.execute(
            select(mover_coordinator.c.address, mover_coordinator.c.name).where(
                mover_coordinator.c.id == ROW,
                mover_coordinator.c.seen_at > now_ms() - round(seen_s * 1000),
            )
        ).first()
    return None if row is None else (row.address, row.name)


def expected(databases: Databases) -> bool:
    """Whether the site has ever had a coordinator, so that workers wait for it.

    Raises:
        DatabaseError: ``global`` can't be reached, or has no such table yet.
    """
    with databases.read("global", definitive=True) as connection:
        return connection.execute(select(mover_coordinator.c.id)).first() is not None
