"""A URL becomes an SQLAlchemy engine with the kit's manners.

Each server of a role gets two pools: one for writing, one for reading.  A
connection for reading can't write (``query_only`` on SQLite, a read-only session
on a server), so a write that was sent the wrong way is an error and not a change
that a rollback swallows; and a thread that holds a write transaction and reads
beside it does not wait for itself.

SQLite: WAL, ``synchronous=FULL``, foreign keys on; a write transaction starts
with ``BEGIN IMMEDIATE``, since a transaction that turns from reading to writing
half-way can't wait for the lock.  There is one writer by nature, so the write pool
holds one connection: writers of a process queue fairly for it instead of polling
the file's lock.  A reading connection never creates the file.

MariaDB and MySQL: charset, collation and time zone always given; READ COMMITTED
for writing (fewer gap locks, fewer deadlocks; the binary log must be row based),
the server's REPEATABLE READ for reading, so that one read block sees one moment.
``max_connections`` reached (1040) is waited for, as DBI::Role does: 8 tries, 250 ms
apart.  A connection that idled over a second, or since another one to the same server
broke, is pinged before use, and only then: the driver would ping before every statement
(see `driver`).  Errors are told apart by errno, since the driver's classes differ between
its two builds.

A server that is gone without a word (its host lost power, a floating IP went to another)
is given up after ``read_timeout_s`` without an answer; only migrations may take longer.

A pool that is full makes one wait (see `slots`) ``pool_wait_s``, then it says
`PoolExhausted`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import quote

from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event, exc
from sqlalchemy.engine import URL

from lj_services.database import driver
from lj_services.database.config import RoleSettings
from lj_services.database.errors import (
    CommitUnknown,
    DatabaseBusy,
    DatabaseError,
    DatabaseUnreachable,
    DiskFull,
    PoolExhausted,
    ReadOnlyConnection,
    SchemaTooOld,
    WriterReadOnly,
)
from lj_services.database.metrics import POOL_EXHAUSTED, POOL_IN_USE
from lj_services.database.slots import Slots

Mode = Literal["write", "read", "probe", "schema"]
"""What a connection is for: ``probe`` is a reader's health check, ``schema`` a migration."""

WRITING = {"write", "schema"}

TOO_MANY_CONNECTIONS = {1040, 1203, 1226}
CONNECT_TRIES = 8
CONNECT_TRY_EVERY_S = 0.25
PING_AFTER_S = 1.0

DISCONNECTED = {1053, 1927, 2006, 2013, 2014, 2045, 2048, 2055, 4031}
NOT_THERE = {2002, 2003}
LOCKED = {1205, 1213, 3572}
SERVER_READ_ONLY = {1290, 1836}
READING_SESSION = 1792
NO_SUCH_TABLE = 1146
NO_ROOM = {1021, 1114}
REFUSED = {
    1044: "the user may not use this database: check the grants",
    1045: "wrong user or password: check the URL's user and password_file",
    1049: "no such database: create it first (the role `database` does)",
    1698: "the user may not log in this way: check its authentication method",
}


def server_label(url: URL) -> str:
    """What logs, errors and metrics call a server: host, port and database, no user."""
    if url.drivername == "sqlite":
        return str(url.database)
    place = url.query.get("unix_socket") or f"{url.host}:{url.port or 3306}"
    return f"{place}/{url.database}"


def error_number(error: BaseException) -> int | None:
    """The server's or the client library's error number, if there is one."""
    number = getattr(getattr(error, "orig", error), "errno", None)
    return number if isinstance(number, int) and number > 0 else None


class Server:
    """One server of a role, and its pools.

    Args:
        role: the role's name, for messages.
        url: where it is.
        password: None for none.
        settings: the role's settings.
    """

    def __init__(self, role: str, url: URL, password: str | None, settings: RoleSettings) -> None:
        self.role = role
        self.url = url
        self.label = server_label(url)
        self.is_sqlite = url.drivername == "sqlite"
        self._settings = settings
        self._broke_at = 0.0
        self.login = url.set(password=password) if password is not None else url
        """Where it is, with the password: for what connects past the pools, as a replica does."""
        make = self._sqlite_engine if self.is_sqlite else self._mysql_engine
        sizes: dict[Mode, int] = {
            "write": 1 if self.is_sqlite else settings.pool_size,
            "read": settings.pool_size,
            "probe": 1,
            "schema": 1,
        }
        self._engines = {mode: make(self.login, mode, size) for mode, size in sizes.items()}
        self._slots = {mode: Slots(size) for mode, size in sizes.items()}

    def __str__(self) -> str:
        return f"{self.role} ({self.label})"

    def close(self) -> None:
        """Close the pooled connections; those in use close when they are given back."""
        for engine in self._engines.values():
            engine.dispose()

    @contextmanager
    def connect(self, mode: Mode) -> Iterator[Connection]:
        """A connection without a transaction; what is not committed is rolled back.

        Raises:
            PoolExhausted: none became free in time.
            DatabaseUnreachable: connecting failed.
        """
        slots = self._slots[mode]
        if not slots.acquire(self._settings.pool_wait_s):
            POOL_EXHAUSTED.labels(self.role, self.label, mode).inc()
            raise PoolExhausted(
                f"{self}: all connections for {mode} stayed in use for "
                f"{self._settings.pool_wait_s:g} s; raise pool_size or look for long transactions"
            )
        in_use = POOL_IN_USE.labels(self.role, self.label, mode)
        in_use.inc()
        try:
            try:
                connection = self._engines[mode].connect()
            except exc.DBAPIError as error:
                raise self.explain(error) or DatabaseUnreachable(f"{self}: {error.orig}") from error
            try:
                yield connection
            finally:
                _end(connection.close, connection)
        finally:
            in_use.dec()
            slots.release()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One write transaction: commit at the end of the block, rollback on an error.

        Raises:
            DatabaseBusy: a lock was not had in time, or a deadlock; run it again.
            CommitUnknown: the connection broke during the commit.
            DatabaseUnreachable: it broke earlier: nothing was written.
            WriterReadOnly: the server takes no writes now.
            PoolExhausted: no connection became free.
        """
        committing = False
        with self.connect("write") as connection:
            try:
                transaction = connection.begin()
                try:
                    yield connection
                    committing = True
                    transaction.commit()
                except BaseException:
                    _end(transaction.rollback, connection)
                    raise
            except exc.DBAPIError as error:
                if committing and error.connection_invalidated:
                    raise CommitUnknown(
                        f"{self}: the connection broke during COMMIT; "
                        "look whether the change is there before doing it again"
                    ) from error
                if (told := self.explain(error)) is None:
                    raise
                if isinstance(told, WriterReadOnly):
                    connection.invalidate()  # it may lead to the side that was failed away from
                raise told from error

    def explain(self, error: exc.DBAPIError) -> DatabaseError | None:
        """The kit's error for a driver's; None for one that is the caller's own affair."""
        number = error_number(error)
        message = str(error.orig)
        if number in LOCKED or "database is locked" in message:
            return DatabaseBusy(f"{self}: {message}; the transaction may be run again")
        if number == READING_SESSION or "attempt to write a readonly database" in message:
            return ReadOnlyConnection(
                f"{self}: this connection is for reading; write inside databases.write()"
            )
        if number in SERVER_READ_ONLY:
            return WriterReadOnly(f"{self} takes no writes now: {message}")
        if number in NO_ROOM or "database or disk is full" in message:
            return DiskFull(f"{self} has no room: {message}; free some disk space there")
        if number in REFUSED:
            return DatabaseUnreachable(f"{self}: {REFUSED[number]} ({message})")
        if number == NO_SUCH_TABLE or "no such table" in message:
            return SchemaTooOld(f"{self}: {message}; run `lj db migrate`")
        if self.is_sqlite and "unable to open database file" in message:
            return DatabaseUnreachable(
                f"{self}: can't be opened; is its folder there and writable, "
                "and did `lj db migrate` create it?"
            )
        if (
            error.connection_invalidated
            or number in TOO_MANY_CONNECTIONS
            or number in DISCONNECTED
            or (number is not None and 2000 < number < 2100)
        ):
            return DatabaseUnreachable(f"{self} can't be reached: {message}")
        return None

    def _sqlite_engine(self, url: URL, mode: Mode, size: int) -> Engine:
        writes = mode in WRITING
        if not writes:
            url = URL.create(
                "sqlite",
                database=f"file:{quote(str(url.database))}",
                query={"mode": "rw", "uri": "true"},
            )
        engine = create_engine(
            url,
            connect_args={"timeout": self._settings.lock_wait_s, "check_same_thread": False},
            hide_parameters=True,  # what users wrote has no place in errors and logs
            **_pool(mode, size),
        )

        @event.listens_for(engine, "connect")
        def on_connect(dbapi: Any, _record: Any) -> None:
            dbapi.isolation_level = None  # transactions are begun below, not by the driver
            dbapi.execute("PRAGMA foreign_keys=ON")
            dbapi.execute("PRAGMA synchronous=FULL")
            if writes:
                dbapi.execute("PRAGMA journal_mode=WAL")
            else:
                dbapi.execute("PRAGMA query_only=ON")

        begin = "BEGIN IMMEDIATE" if writes else "BEGIN"

        @event.listens_for(engine, "begin")
        def on_begin(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine

    def _mysql_engine(self, url: URL, mode: Mode, size: int) -> Engine:
        settings = self._settings
        connect_args: dict[str, Any] = {
            "charset": "utf8mb4",
            "collation": "utf8mb4_bin",
            "connection_timeout": settings.connect_timeout_s,
            "time_zone": "+00:00",
        }
        if mode == "probe":
            connect_args["read_timeout"] = settings.connect_timeout_s
        elif mode != "schema":
            connect_args["read_timeout"] = settings.read_timeout_s
        engine = create_engine(
            url.set(drivername=f"{url.drivername}+mysqlconnector"),
            connect_args=connect_args,
            isolation_level="READ COMMITTED" if mode in WRITING else "REPEATABLE READ",
            hide_parameters=True,  # what users wrote has no place in errors and logs
            **_pool(mode, size),
        )

        @event.listens_for(engine, "connect")
        def on_connect(dbapi: Any, _record: Any) -> None:
            with dbapi.cursor() as cursor:
                if mode in WRITING:
                    cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {settings.lock_wait_s}")
                else:
                    cursor.execute("SET SESSION TRANSACTION READ ONLY")

        @event.listens_for(engine, "handle_error")
        def on_error(context: Any) -> None:
            number = error_number(context.original_exception)
            if number in DISCONNECTED:
                context.is_disconnect = True
            if number in DISCONNECTED or number in NOT_THERE:
                self._broke_at = time.monotonic()

        @event.listens_for(engine, "do_connect")
        def on_do_connect(dialect: Any, _record: Any, _cargs: Any, cparams: Any) -> Any:
            tries = 1 if mode == "probe" else CONNECT_TRIES
            while True:
                try:
                    return driver.connect(**cparams)
                except dialect.loaded_dbapi.Error as error:
                    tries -= 1
                    if error.errno not in TOO_MANY_CONNECTIONS or tries == 0:
                        raise
                time.sleep(CONNECT_TRY_EVERY_S)

        @event.listens_for(engine, "checkin")
        def on_checkin(_dbapi: Any, record: Any) -> None:
            record.info["idle_since"] = time.monotonic()

        @event.listens_for(engine, "checkout")
        def on_checkout(dbapi: Any, record: Any, _fairy: Any) -> None:
            idle_since = record.info.pop("idle_since", None)
            if idle_since is None:
                return
            fresh = time.monotonic() - idle_since < PING_AFTER_S
            if fresh and idle_since > self._broke_at:
                return
            try:
                dbapi.ping(reconnect=False)
            except Exception as error:
                raise exc.DisconnectionError("went stale while idle") from error

        return engine


def _end(step: Callable[[], None], connection: Connection) -> None:
    """Roll back or close; where even that fails, throw the connection away.

    The server rolls back what a lost connection leaves, and what was read or committed
    stands: there is nothing to tell that the block's own outcome does not tell better.
    """
    try:
        step()
    except exc.DBAPIError:
        if not connection.closed:
            connection.invalidate()


def _pool(mode: Mode, size: int) -> dict[str, Any]:
    if mode in ("probe", "schema"):
        return {"poolclass": NullPool}
    return {
        "poolclass": QueuePool,
        "pool_size": size,
        "max_overflow": 0,
        "pool_use_lifo": True,
        # Every block here ends in its own commit or rollback: a second
        # rollback when the connection is given back would cost a round trip.
        "pool_reset_on_return": None,
    }
