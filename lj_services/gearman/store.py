"""Background jobs in a database: what survives a server that is killed.

One table has the jobs, one the servers that keep theirs there (`migrations/`).  A server is
known by its handle prefix.  Each start of it takes the next incarnation, and every write
says which incarnation writes: if two servers have the same name by mistake, the older one
is told to end instead of both doing the same jobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from lj_services.database import Component, DatabaseError, Databases, migrate

ROLE: Final = "gearman"
"""The database role that a server's jobs are in."""
COMPONENT: Final = Component("gearman", "lj_services.gearman")

INSERT: Final = (
    "INSERT INTO gearman_job (server, number, function, uniq, reducer, priority, run_at, data) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
STATEMENT_ROWS: Final = 500
STATEMENT_BYTES: Final = 1 << 20
"""How much goes into one statement at most, unless a single job is larger; in bytes."""
UNSTORED_NUMBERS: Final = 1_000_000
"""After a crash so many numbers of jobs are left out: they may have been given to jobs that
were not stored, and somebody may still ask for them."""


class Row(NamedTuple):
    """A job as it is stored."""

    number: int
    """What its handle ends with."""
    function: bytes
    unique: bytes
    reducer: bytes | None
    priority: int
    run_at: float
    data: bytes


class StoreTaken(DatabaseError):
    """Another server has started with the same name: this one must end."""


class JobStore:
    """The stored jobs of one server; blocking, used by one thread at a time.

    Args:
        databases: with the role ``gearman``.
        server: the server's name: its handle prefix.
    """

    def __init__(self, databases: Databases, server: str) -> None:
        self._databases = databases
        self._server = server
        self._incarnation = 0

    def open(self) -> int:
        """Bring the schema up to date, and take the next incarnation.

        Returns:
            the number after which new jobs are numbered.

        Raises:
            DatabaseError: the database can't be used.
        """
        migrate(self._databases, ROLE, [COMPONENT])
        who = {"name": self._server}
        with self._databases.write(ROLE) as connection:
            found = connection.execute(
                text("SELECT incarnation, newest FROM gearman_server WHERE name = :name"), who
            ).first()
            if found is None:
                connection.execute(
                    text(
                        "INSERT INTO gearman_server (name, incarnation, newest) "
                        "VALUES (:name, 1, 0)"
                    ),
                    who,
                )
                self._incarnation = 1
                return 0
            self._incarnation = found.incarnation + 1
            newest: int = found.newest + UNSTORED_NUMBERS
            connection.execute(
                text(
                    "UPDATE gearman_server SET incarnation = :incarnation, newest = :newest "
                    "WHERE name = :name"
                ),
                {**who, "incarnation": self._incarnation, "newest": newest},
            )
            return newest

    def jobs(self) -> Iterator[Row]:
        """The stored jobs, the oldest first.

        Raises:
            DatabaseError: the database can't be read.
        """
        with self._databases.read(ROLE, definitive=True) as connection:
            found = connection.execution_options(yield_per=1000).execute(
                text(
                    "SELECT number, function, uniq, reducer, priority, run_at, data "
                    "FROM gearman_job WHERE server = :name ORDER BY number"
                ),
                {"name": self._server},
            )
            for number, function, unique, reducer, priority, run_at, data in found:
                yield Row(
                    number,
                    bytes(function),
                    bytes(unique),
                    None if reducer is None else bytes(reducer),
                    priority,
                    run_at,
                    bytes(data),
                )

    def write(self, newest: int, gone: Sequence[int], rows: Sequence[Row]) -> None:
        """Store jobs and forget others, in one transaction.

        Args:
            newest: number of the newest job, stored or not.
            gone: numbers of jobs that are forgotten, also if they were never stored.
            rows: jobs that are stored; one whose number is in `gone`, too, is replaced.

        Raises:
            StoreTaken: another server of the same name has started.
            DatabaseError: nothing was written, or (`CommitUnknown`) nobody knows.
        """
        try:
            self._write(newest, gone, rows)
        except DBAPIError as error:
            # One that the database layer has no word for, as of a job that is too large.
            raise DatabaseError(f"{self._databases.writer(ROLE)}: {error.orig}") from error

    def _write(self, newest: int, gone: Sequence[int], rows: Sequence[Row]) -> None:
        with self._databases.write(ROLE) as connection:
            mine = connection.execute(
                text(
                    "UPDATE gearman_server SET newest = :newest, writes = writes + 1 "
                    "WHERE name = :name AND incarnation = :incarnation"
                ),
                {"newest": newest, "name": self._server, "incarnation": self._incarnation},
            )
            if mine.rowcount != 1:
                raise StoreTaken(
                    f"another server has started with the handle prefix {self._server}: "
                    "give each server of a database a handle_prefix of its own"
                )
            self._forget(connection, gone)
            self._add(connection, rows)

    def _forget(self, connection: Connection, gone: Sequence[int]) -> None:
        numbers = iter(gone)
        while some := list(islice(numbers, STATEMENT_ROWS)):
            listed = ", ".join(str(int(number)) for number in some)
            connection.execute(
                text(
                    "DELETE FROM gearman_job "  # noqa: S608 -- numbers, made so just above
                    f"WHERE server = :name AND number IN ({listed})"
                ),
                {"name": self._server},
            )

    def _add(self, connection: Connection, rows: Sequence[Row]) -> None:
        insert = INSERT if self._databases.writer(ROLE).is_sqlite else INSERT.replace("?", "%s")
        for portion in _portions(rows):
            connection.exec_driver_sql(insert, [_values(self._server, row) for row in portion])


def _values(server: str, row: Row) -> tuple[object, ...]:
    # Not every driver takes the bytearray that large data is.
    return (server, *row[:-1], bytes(row.data))


def _portions(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """What goes into one statement each."""
    portion: list[Row] = []
    size = 0
    for row in rows:
        if portion and (len(portion) == STATEMENT_ROWS or size + len(row.data) > STATEMENT_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(row)
        size += len(row.data)
    if portion:
        yield portion
