"""Carries out requests on the site's databases.  Blocking; knows no job servers.

Writes are done once, however often they are delivered.  A job server gives a job whose
worker was lost to the next one, and nobody can tell whether the first one had come as far
as COMMIT.  So each transaction also writes the call's name and its answer into the table
``gofer_call``.  A second delivery then fails on that row, or on a row of its own that is
there already; it is rolled back, and the answer of the first one is given.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Column, Connection, MetaData, String, Table, Text, delete, insert, select
from sqlalchemy.engine import CursorResult
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from lj_services.database import (
    Component,
    DatabaseBusy,
    Databases,
    ReadOnlyConnection,
    SchemaTooOld,
)
from lj_services.database import DatabaseError as KitError
from lj_services.gearman.gofer.config import GoferSettings
from lj_services.gearman.gofer.errors import (
    BY_NAME,
    CallUnknown,
    DatabaseError,
    Error,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    TryAgain,
)
from lj_services.gearman.gofer.kinds import kinds_of
from lj_services.gearman.gofer.messages import FrameWriter, Request
from lj_services.gearman.gofer.statements import Statement

COMPONENT: Final = Component("gofer", "lj_services.gearman.gofer")
"""The table of calls that were done, for ``lj db migrate``."""

KEEP_S: Final = 86_400
"""How long a call's answer is kept, in seconds; longer than anybody waits for one."""
CLOCKS_S: Final = 5.0
"""How far the clocks of callers and gofers may be apart, in seconds."""
ROWS: Final = 200
"""Rows that are fetched at a time."""
MAX_KEPT: Final = 60_000
"""Characters of an answer that is kept for a second delivery."""

gofer_call = Table(
    "gofer_call",
    MetaData(),
    Column("callid", String(32), primary_key=True),
    Column("answer", Text),
)

Send = Callable[[bytes], None]


class Held:
    """A transaction that is kept between calls."""

    def __init__(self, executor: Executor, role: str) -> None:
        self._executor = executor
        self._role = role
        self._writing = executor.databases.write(role)
        self.connection = self._writing.__enter__()
        self.last: tuple[str, bytes] | None = None
        """The newest call and its answer, for its second delivery."""

    @property
    def broken(self) -> bool:
        """Whether the connection is gone, and the transaction with it."""
        return self.connection.invalidated or not self.connection.in_transaction()

    def step(self, request: Request) -> bytes:
        """Run statements in it; the answer.

        Raises:
            Error: as of `Executor.write`; `broken` says whether the transaction is gone.
        """
        if self.last is not None and self.last[0] == request.call:
            return self.last[1]
        with told(), self._explained():
            answer = self._executor.run(self._role, self.connection, request)
        self.last = (request.call, answer)
        return answer

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """The kit's errors for the driver's, as at the end of a whole transaction."""
        try:
            yield
        except DBAPIError as error:
            kit_error = self._executor.databases.writer(self._role).explain(error)
            if kit_error is None:
                raise
            raise kit_error from error

    def commit(self, request: Request) -> bytes:
        """Commit it; the answer.

        Raises:
            Error: it is rolled back, or `CallUnknown`.
        """
        try:
            with told():
                with self._explained():
                    answer = self._executor.run(self._role, self.connection, request)
                    self._executor.note(self.connection, request.call, answer)
                self._writing.__exit__(None, None, None)
        except Error as error:
            self.rollback()
            known = self._executor.known(self._role, request.call)
            if known is None:
                raise error
            return known
        return answer

    def rollback(self) -> None:
        """Roll it back, whatever state it is in."""
        with suppress(KitError, SQLAlchemyError):
            self._writing.__exit__(_RolledBack, _RolledBack(), None)


class _RolledBack(Exception):
    """Leaves a transaction without a commit."""


class Executor:
    """What a gofer does with its databases.

    Args:
        databases: with pools that are large enough for what the settings offer.
        settings: the roles, and what is allowed with them.
    """

    def __init__(self, databases: Databases, settings: GoferSettings) -> None:
        self.databases = databases
        self._settings = settings
        self._mysql = {role: not databases.writer(role).is_sqlite for role in settings.roles}
        self._allowed = {
            role: frozenset(
                Statement(sql, mysql=self._mysql[role]).normal() for sql in offered.statements
            )
            for role, offered in settings.roles.items()
        }

    def read(self, role: str, request: Request, send: Send) -> bytes:
        """Run statements on a connection that can't write.

        Args:
            role: the database role.
            request: what to run.
            send: takes the answer's pieces, but not the last.

        Returns:
            the last piece.

        Raises:
            Error: what the caller is to be told.
        """
        self._still_wanted(request)
        writer = FrameWriter(
            None if request.whole else send, self._settings.frame, self._settings.max_answer
        )
        with told(), self.databases.read(role, definitive=request.definitive) as connection:
            self._run_all(role, connection, request, writer)
        return writer.last()

    def write(self, role: str, request: Request) -> bytes:
        """Run statements in one transaction on the writer, once; the answer.

        Raises:
            Error: what the caller is to be told; nothing was done, unless it is
                `CallUnknown`.
        """
        self._still_wanted(request)
        try:
            with told(), self.databases.write(role) as connection:
                answer = self.run(role, connection, request)
                self.note(connection, request.call, answer)
        except Error as error:
            known = self.known(role, request.call)
            if known is None:
                raise error
            return known
        return answer

    def hold(self, role: str, request: Request) -> tuple[Held, bytes]:
        """Run statements in a transaction that stays open; it, and the answer.

        Raises:
            Error: what the caller is to be told; nothing is held.
        """
        self._still_wanted(request)
        with told():
            held = Held(self, role)
        try:
            return held, held.step(request)
        except BaseException:
            held.rollback()
            raise

    def run(self, role: str, connection: Connection, request: Request) -> bytes:
        """Run a request's statements in a transaction; the answer as one piece."""
        writer = FrameWriter(None, self._settings.frame, self._settings.max_answer)
        self._run_all(role, connection, request, writer)
        return writer.last()

    def note(self, connection: Connection, call: str, answer: bytes) -> None:
        """Write into the transaction that the call was done."""
        text: str | None = answer.decode()
        if text is not None and len(text) > MAX_KEPT:
            text = None
        connection.execute(insert(gofer_call).values(callid=call, answer=text))

    def known(self, role: str, call: str) -> bytes | None:
        """The answer of a call that was committed before; None: it was not.

        Raises:
            CallUnknown: it can't be found out.
        """
        query = select(gofer_call.c.answer).where(gofer_call.c.callid == call)
        try:
            with self.databases.read(role, definitive=True) as connection:
                row = connection.execute(query).first()
        except (KitError, SQLAlchemyError) as error:
            raise CallUnknown(f"whether it was committed can't be found out: {error}") from error
        if row is None:
            return None
        if row.answer is None:
            raise CallUnknown("it was committed before, but its long answer was not kept")
        return str(row.answer).encode()

    def forget_old(self, role: str) -> int:
        """Remove answers that nobody can ask for any more; how many."""
        oldest = f"{int(time.time()) - KEEP_S:08x}"
        with self.databases.write(role) as connection:
            gone = connection.execute(delete(gofer_call).where(gofer_call.c.callid < oldest))
            return int(gone.rowcount)

    # -- statements ----------------------------------------------------------------

    def _still_wanted(self, request: Request) -> None:
        if request.until and time.time() > request.until + CLOCKS_S:
            raise OperationalError("the call came too late: nobody waits for it any more")
        if request.do != "read" and not 0 < request.until < time.time() + KEEP_S / 2:
            raise InterfaceError("a call that writes must say until when, within half a day")

    def _run_all(
        self, role: str, connection: Connection, request: Request, writer: FrameWriter
    ) -> None:
        for sql, rows in request.statements:
            statement = self._allow(role, sql)
            statement.check(rows)
            if len(rows) == 1:
                self._run(role, connection, statement, tuple(rows[0]), writer)
                continue
            changed = 0
            for row in rows:
                result = self._execute(role, connection, statement, tuple(row), stream=False)
                if result.returns_rows:
                    result.close()
                    raise ProgrammingError("a statement with many rows of parameters gives rows")
                changed += max(result.rowcount, 0)
            writer.line({"end": [changed, None]})

    def _allow(self, role: str, sql: str) -> Statement:
        statement = Statement(sql, mysql=self._mysql[role])
        offered = self._settings.roles[role]
        if statement.verb not in offered.verbs:
            raise ProgrammingError(
                f"{statement.verb.upper() or 'this'} is not allowed for {role}; "
                f"allowed are {', '.join(offered.verbs)} (roles.{role}.verbs)"
            )
        if offered.statements and statement.normal() not in self._allowed[role]:
            raise ProgrammingError(
                f"this statement is not allowed for {role} (roles.{role}.statements)"
            )
        return statement

    def _run(
        self,
        role: str,
        connection: Connection,
        statement: Statement,
        values: tuple[Any, ...],
        writer: FrameWriter,
    ) -> None:
        result = self._execute(role, connection, statement, values, stream=True)
        if not result.returns_rows:
            writer.line({"end": [result.rowcount, result.lastrowid or None]})
            return
        try:
            assert result.cursor is not None
            description = result.cursor.description
            rows = result.fetchmany(ROWS)
            writer.line({"columns": kinds_of(description, rows)})
            count = 0
            while rows:
                for row in rows:
                    writer.line(tuple(row))
                count += len(rows)
                rows = result.fetchmany(ROWS)
            writer.line({"end": [count, None]})
        except BaseException:
            # Rows are left on the wire, which the next one would find there.
            connection.invalidate()
            raise

    def _execute(
        self,
        role: str,
        connection: Connection,
        statement: Statement,
        values: tuple[Any, ...],
        *,
        stream: bool,
    ) -> CursorResult[Any]:
        if self._mysql[role]:
            sql = statement.for_mysql()
        else:
            sql = statement.text()
            values = tuple(_for_sqlite(value) for value in values)
        options = {"stream_results": stream and statement.verb == "select"}
        return connection.exec_driver_sql(sql, values or None, execution_options=options)


def _for_sqlite(value: Any) -> Any:
    """SQLite has no times and no decimal numbers: they are text there."""
    if isinstance(value, dt.datetime):
        return value.isoformat(" ")
    if isinstance(value, dt.date | dt.time | dt.timedelta | Decimal):
        return str(value)
    return value


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong inside, as DB-API's errors."""
    try:
        yield
    except DatabaseBusy as error:
        raise TryAgain(str(error)) from error
    except (ReadOnlyConnection, SchemaTooOld) as error:
        raise ProgrammingError(str(error)) from error
    except KitError as error:
        raise OperationalError(str(error)) from error
    except DBAPIError as error:
        kind = BY_NAME.get(type(error).__name__, DatabaseError)
        raise kind(str(error.orig)) from error
    except SQLAlchemyError as error:
        raise DatabaseError(str(error)) from error
