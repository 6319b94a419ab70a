"""What a statement of the DB-API driver gave, and the way through its rows.  Source: PEP 249."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from lj_services.gearman.gofer.errors import InterfaceError, ProgrammingError
from lj_services.gearman.gofer.messages import Result, Row

if TYPE_CHECKING:
    from lj_services.gearman.gofer.dbapi import Connection

Values: TypeAlias = Sequence[Any]
"""The parameters of a statement."""


class Cursor:
    """Runs statements and holds the rows of the last one.  Made by `Connection.cursor`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arraysize = 1
        """How many rows `fetchmany` gives unless it is told."""
        self.lastrowid: int | None = None
        """The number that the database gave the last row that was inserted."""
        self._result: Result | None = None
        self._next = 0
        self._closed = False

    @property
    def description(self) -> list[tuple[Any, ...]] | None:
        """Seven items for each column, of which name and kind are known; None: no rows."""
        if self._result is None or self._result.columns is None:
            return None
        return [(name, kind, None, None, None, None, None) for name, kind in self._result.columns]

    @property
    def rowcount(self) -> int:
        """Rows that were changed or found; -1: not known."""
        return -1 if self._result is None else self._result.rowcount

    @property
    def rownumber(self) -> int | None:
        """The index of the next row; None: there are no rows to give."""
        return None if self.description is None else self._next

    def execute(self, operation: str, parameters: Values = ()) -> Self:
        """Run a statement.

        Args:
            operation: SQL with a question mark for each parameter.
            parameters: what goes there.

        Raises:
            Error: as its name says.
        """
        return self._run(operation, [list(parameters)])

    def executemany(self, operation: str, seq_of_parameters: Sequence[Values]) -> Self:
        """Run a statement once for each row of parameters, in one transaction.

        Raises:
            Error: none of them was done, unless it is `CallUnknown`.
        """
        return self._run(operation, [list(row) for row in seq_of_parameters])

    def _run(self, sql: str, rows: list[list[Any]]) -> Self:
        self._check()
        self._result = None
        self._next = 0
        if not rows:
            self._result = Result(rowcount=0)
            return self
        (self._result,) = self.connection.statement(sql, rows)
        self.lastrowid = self._result.lastrowid
        return self

    def fetchone(self) -> Row | None:
        """The next row; None: there are no more."""
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int | None = None) -> list[Row]:
        """The next `size` rows (`arraysize` if not told), or as many as are left."""
        rows = self._rows()
        start = self._next
        self._next = min(len(rows), start + (self.arraysize if size is None else size))
        return rows[start : self._next]

    def fetchall(self) -> list[Row]:
        """All rows that are left."""
        return self.fetchmany(len(self._rows()))

    def __iter__(self) -> Iterator[Row]:
        while (row := self.fetchone()) is not None:
            yield row

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """Nothing to prepare."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Let go of the rows; the cursor can't be used any more."""
        self._closed = True
        self._result = None

    def _rows(self) -> list[Row]:
        self._check()
        if self._result is None or self._result.columns is None:
            raise ProgrammingError("there are no rows to fetch: run a query first")
        return self._result.rows

    def _check(self) -> None:
        self.connection.check_open()
        if self._closed:
            raise InterfaceError("the cursor is closed")
