"""The DB-API 2.0 driver: connections that are nothing but a way to make calls.  Source: PEP 249.

A `Connection` holds no socket and no transaction (unless it was made with a lease), so a
program may have as many as it likes.  What it is asked for is sent to the gofers of its
role as a Gearman job and done there on one of their few connections.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, Self

from lj_services.gearman.client import Client
from lj_services.gearman.client_errors import (
    BadTask,
    GearmanError,
    TaskException,
)
from lj_services.gearman.gofer import errors
from lj_services.gearman.gofer.cursor import Cursor, Values
from lj_services.gearman.gofer.errors import (
    CallUnknown,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
    TransactionLost,
)
from lj_services.gearman.gofer.messages import Do, FrameReader, Request, Result, Row
from lj_services.gearman.placement import Address
from lj_services.gearman.tasks import Task

_READS: Final = re.compile(r"[\s(]*(?:select|show|explain)\b", re.IGNORECASE)
_LOCKS: Final = re.compile(r"\bfor\s+(?:update|share)\b|\block\s+in\b", re.IGNORECASE)
_MOST_S: Final = 3600.0


def connect(
    servers: Sequence[Address] | Client,
    role: str,
    *,
    read_only: bool = False,
    coalesce: bool = False,
    lease_s: float | None = None,
    timeout_s: float = 30.0,
    prefix: str = "gofer",
) -> Connection:
    """A connection to a database role, by way of gofers.  Nothing is connected before it is used.

    Args:
        servers: the job servers, or a client of them, which many connections may share.
        role: the database role, as ``cluster1``.
        read_only: reads may go to replicas, and writing is an error; without it reads go
            to the role's writer, so that they see what was written before.
        coalesce: equal reads that are under way at the same time, of any program, are one;
            a caller may then see what was read just before its call.  Only with
            `read_only`.
        lease_s: unset: each call is its own transaction, committed when it returns.  Set:
            the first statement starts a transaction, which is held until `commit` or
            `rollback`, or until no call came for so many seconds.
        timeout_s: longest wait for a call's answer, in seconds, at most 3600.
        prefix: what the gofers' Gearman functions start with.

    Raises:
        InterfaceError: these don't go together.
    """
    if coalesce and not read_only:
        raise InterfaceError("only reads can be coalesced: connect with read_only=True")
    if lease_s is not None and read_only:
        raise InterfaceError("a lease holds a transaction that writes: leave out read_only")
    if not 0 < timeout_s <= _MOST_S:
        raise InterfaceError(f"timeout_s is {timeout_s:g}: more than 0, at most {_MOST_S:g}")
    client = servers if isinstance(servers, Client) else Client(servers)
    own = client is not servers
    return Connection(client, own, role, read_only, coalesce, lease_s, timeout_s, prefix)


class Connection:
    """See `connect`, which makes it.  For one thread at a time."""

    Warning = errors.Warning
    Error = errors.Error
    InterfaceError = errors.InterfaceError
    DatabaseError = errors.DatabaseError
    DataError = errors.DataError
    OperationalError = errors.OperationalError
    IntegrityError = errors.IntegrityError
    InternalError = errors.InternalError
    ProgrammingError = errors.ProgrammingError
    NotSupportedError = errors.NotSupportedError

    def __init__(
        self,
        client: Client,
        own: bool,
        role: str,
        read_only: bool,
        coalesce: bool,
        lease_s: float | None,
        timeout_s: float,
        prefix: str,
    ) -> None:
        self._client = client
        self._own = own
        self._name = f"{prefix}.{role}"
        self._read_only = read_only
        self._coalesce = coalesce
        self._lease_s = lease_s
        self._timeout_s = timeout_s
        self._lease: dict[str, Any] | None = None
        self._lost: TransactionLost | None = None
        self._closed = False

    @property
    def autocommit(self) -> bool:
        """Whether each call is committed when it returns."""
        return self._lease_s is None

    def cursor(self) -> Cursor:
        """A new cursor; cursors of a connection share its transaction."""
        self.check_open()
        return Cursor(self)

    def commit(self) -> None:
        """Commit the held transaction; without one there is nothing to do.

        Raises:
            TransactionLost: it is rolled back, or `CallUnknown`.
        """
        self.check_open()
        if self._lost is not None:
            raise self._lost
        if self._lease is not None:
            self._end("commit")

    def rollback(self) -> None:
        """Roll the held transaction back; without one there is nothing to do."""
        self.check_open()
        self._lost = None
        if self._lease is not None:
            self._end("rollback")

    def close(self) -> None:
        """Roll back what is held; the connection can't be used any more.

        Raises:
            InterfaceError: it was closed before.
        """
        self.check_open()
        try:
            if self._lease is not None:
                self._end("rollback")
        finally:
            self._closed = True
            if self._own:
                self._client.close()

    def transaction(self, statements: Sequence[tuple[str, Values]]) -> list[Result]:
        """Run statements as one transaction in one call: all or nothing, and committed.

        Args:
            statements: each with its parameters.

        Returns:
            What came of each.

        Raises:
            Error: none of them was done, unless it is `CallUnknown`.
        """
        self.check_open()
        if self._lease_s is not None:
            raise InterfaceError("this connection holds its transactions: use commit()")
        rows = [(sql, [list(values)]) for sql, values in statements]
        return self.ask("write", rows)

    def stream(self, sql: str, values: Values = ()) -> Iterator[Row]:
        """The rows of a query as they come, without keeping them.

        The job server keeps what the caller does not take, up to its own limit, and then
        cuts the connection: don't do long work between rows.

        Raises:
            OperationalError: also when the gofer was lost after rows had been given.
        """
        self.check_open()
        reader = FrameReader()
        given = 0
        task = self._task("read", [(sql, [list(values)])], reader)
        tasks = self._client.task_set()
        tasks.add_task(task)
        for _ in tasks.rounds():
            if task.done:
                self._finish(task, reader, writes=False)
            if reader.restarts and given:
                raise OperationalError("the gofer was lost in the middle; start again")
            rows = reader.take_rows()
            given += len(rows)
            yield from rows
        if not reader.results:
            self._finish(task, reader, writes=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if not self._closed:
            if kind is None:
                self.commit()
            self.close()

    # -- calls -----------------------------------------------------------------------

    def statement(self, sql: str, rows: list[list[Any]]) -> list[Result]:
        """Run a statement in the way that this connection has.  For `Cursor`."""
        self.check_open()
        statements = [(sql, rows)]
        if self._lease_s is not None:
            if self._lost is not None:
                raise self._lost
            return self.ask("lease" if self._lease is None else "step", statements)
        reads = self._read_only or (_READS.match(sql) and not _LOCKS.search(sql))
        return self.ask("read" if reads else "write", statements)

    def ask(self, do: Do, statements: list[tuple[str, list[list[Any]]]]) -> list[Result]:
        """Make a call, and wait for its answer."""
        reader = FrameReader()
        task = self._task(do, statements, reader)
        tasks = self._client.task_set()
        tasks.add_task(task)
        tasks.run()
        try:
            self._finish(task, reader, writes=do not in ("read", "lease", "rollback"))
        except OperationalError as error:
            if do in ("step", "commit") and isinstance(error, CallUnknown | TransactionLost):
                self._lease = None
            if do == "step" and self._lease is None:
                self._lost = TransactionLost(f"the transaction is gone; roll back: {error}")
                raise self._lost from error
            raise
        if reader.lease is not None:
            self._lease = reader.lease
        return reader.results

    def _end(self, do: Do) -> None:
        try:
            self.ask(do, [])
        finally:
            self._lease = None

    def _task(
        self, do: Do, statements: list[tuple[str, list[list[Any]]]], reader: FrameReader
    ) -> Task:
        held = self._lease if do in ("step", "commit", "rollback") else None
        request = Request(
            do=do,
            statements=statements,
            # Without a name of its own a coalesced read is equal to others.
            call="" if do == "read" else f"{int(time.time()):08x}{secrets.token_hex(12)}",
            until=0.0 if self._coalesce else time.time() + self._timeout_s,
            definitive=not self._read_only,
            whole=self._coalesce,
            lease=str(held["name"]) if held is not None else "",
            lease_s=self._lease_s or 0.0,
        )
        payload = request.pack()
        function = f"{self._name}.{'read' if do == 'read' else 'write'}"
        if held is not None:
            function = str(held["function"])
        unique = request.call
        if self._coalesce:
            unique = hashlib.sha256(function.encode() + b"\0" + payload).hexdigest()[:40]
        try:
            return Task.call(
                function,
                payload,
                unique=unique,
                timeout_s=self._timeout_s,
                # Reading twice does no harm, and writes are done once: see `executor`.
                retries=1 if do == "read" else 0,
                on_data=lambda _, frame: reader.feed(frame),
            )
        except BadTask as error:
            raise ProgrammingError(str(error)) from error

    def _finish(self, task: Task, reader: FrameReader, *, writes: bool) -> None:
        """Take in a call's end.

        Raises:
            Error: that is how it ended.
        """
        try:
            reader.feed(task.value())
        except TaskException as error:
            raise InternalError(error.details.decode(errors="replace")) from error
        except GearmanError as error:
            if writes and task.submits:  # else no server has had it
                raise CallUnknown(f"{error}; it may have been done") from error
            raise OperationalError(str(error)) from error
        if reader.error is not None:
            raise reader.error

    def check_open(self) -> None:
        """Refuse what is asked of a connection that was closed.

        Raises:
            InterfaceError: it was.
        """
        if self._closed:
            raise InterfaceError("the connection is closed")
