"""`rows.Rows` on MariaDB and MySQL: the server writes each row as an SQL literal.

A row is read as the text ``(17,x'4869',NULL)`` that the server composes, and that text goes
into the destination's ``REPLACE ... VALUES`` as it is.  So no value is ever converted by a
driver: zero dates, floats (as doubles, with every digit), bytes in any character set arrive as they
were.  The server also joins the rows of a chunk to one text (``GROUP_CONCAT``), so that Python
handles one value and not thousands, which is what makes it fast; rows that are too long for that
come one by one.  A row's digest is the MD5 of the same text, so whatever would be sent differently
also sums differently, and NULL can't be mistaken for a value.  A span's sum is how many rows there
are and the exclusive or of each half of their digests.

Writing: ``REPLACE``, since a row may have to push out another one that holds its place in a
unique index until that one's own change arrives; with a SQL mode that takes values as they are.

Reading locks rows in share mode where exactness needs it: a locking read waits for a
transaction whose change is already in the binary log and not visible yet (semi-sync's
AFTER_SYNC), and the pools' READ COMMITTED keeps it from locking gaps.

The pieces of SQL are made in `literals`; what a database has is found by `schema_server`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection

from lj_services.usercluster.mover.discovery import Schema, Table
from lj_services.usercluster.mover.errors import MoveRefused
from lj_services.usercluster.mover.literals import (
    conditions,
    key_of,
    literal_of,
    name_of,
    order_by,
    quoted,
    text_of,
)
from lj_services.usercluster.mover.rows import EVERYTHING, Chunk, Key, Print, Range, Span, Sum
from lj_services.usercluster.mover.schema_server import read_print, read_schema

_MODE: Final = "STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES"
_STATEMENT_BYTES: Final = 1 << 20
_TOGETHER_BYTES: Final = 3 << 20
"""Of rows in one text, which goes into one statement: servers take 4 MB at least."""
_ALL: Final = 18_446_744_073_709_551_615
"""A limit that keeps the server from merging a subquery and computing each digest three times."""


class ServerRows:
    """The rows of one user in a database of a server."""

    def schema(self, connection: Connection, place: str) -> Schema:
        """See `Rows`."""
        return read_schema(connection, place)

    def fingerprint(self, connection: Connection) -> Print | None:
        """See `Rows`."""
        return read_print(connection)

    def chunk(
        self,
        connection: Connection,
        table: Table,
        userid: int,
        span: Span,
        limit: int | None,
        *,
        lock: bool,
    ) -> Chunk:
        """See `Rows`."""
        while True:
            last = None
            if limit is not None:
                assert isinstance(span, Range)
                last = self.edge(connection, table, userid, span.after, limit)
                span = Range(span.after, last)
            rows: list[bytes] = []
            count = 0
            for where in conditions(table, userid, span):
                found = _together(connection, [(table, where)], lock)
                if found is None:
                    if limit is not None and limit > 1:
                        limit = max(1, limit // 8)
                        break
                    found = [_one_by_one(connection, table, userid, where, lock)]
                count += found[0][0]
                rows += found[0][1]
            else:
                return Chunk(rows, count, last, sum(map(len, rows)))

    def chunks(
        self, connection: Connection, tables: Sequence[Table], userid: int
    ) -> dict[str, Chunk]:
        """See `Rows`."""
        if not tables:
            return {}
        together = _together(
            connection,
            [(table, w) for table in tables for w in conditions(table, userid, EVERYTHING)],
            lock=True,
        )
        if together is None:
            return {
                table.name: self.chunk(connection, table, userid, EVERYTHING, None, lock=True)
                for table in tables
            }
        return {
            table.name: Chunk(rows, count, None, sum(map(len, rows)))
            for table, (count, rows) in zip(tables, together, strict=True)
        }

    def edge(
        self, connection: Connection, table: Table, userid: int, after: Key | None, rows: int
    ) -> Key | None:
        """See `Rows`."""
        if not table.key:
            return None
        (where,) = conditions(table, userid, Range(after))
        names = ", ".join(name_of(column.name) for column in table.key)
        row = connection.exec_driver_sql(
            f"SELECT {names} FROM {name_of(table.name)} WHERE {where}{order_by(table)} "  # noqa: S608
            f"LIMIT 1 OFFSET {rows - 1}"
        ).first()
        return None if row is None else key_of(table, row)

    def put(self, connection: Connection, table: Table, rows: Sequence[Any]) -> None:
        """See `Rows`."""
        names = ", ".join(name_of(column.name) for column in table.written)
        if getattr(connection.dialect, "is_mariadb", False):
            head = f"SET STATEMENT sql_mode='{_MODE}' FOR REPLACE INTO "
        else:
            head = f"REPLACE /*+ SET_VAR(sql_mode='{_MODE}') */ INTO "
        head += f"{name_of(table.name)} ({names}) VALUES "
        start = 0
        while start < len(rows):
            size, end = 0, start
            while end < len(rows) and (size == 0 or size + len(rows[end]) < _STATEMENT_BYTES):
                size += len(rows[end])
                end += 1
            _run(connection, head.encode() + b",".join(rows[start:end]))
            start = end

    def erase(
        self, connection: Connection, table: Table, userid: int, span: Span, limit: int | None
    ) -> int:
        """See `Rows`."""
        gone = 0
        for where in conditions(table, userid, span):
            query = f"DELETE FROM {name_of(table.name)} WHERE {where}"  # noqa: S608
            if limit is not None:
                query += f"{order_by(table)} LIMIT {limit - gone}"
            gone += connection.exec_driver_sql(query).rowcount
        return gone

    def sum(
        self, connection: Connection, table: Table, userid: int, span: Span, *, lock: bool = False
    ) -> Sum:
        """See `Rows`."""
        total = Sum(0, 0, 0)
        for where in conditions(table, userid, span):
            row = connection.exec_driver_sql(_summing(table, where, lock)).one()
            total = total.with_more(_sum_of(table, userid, row[1:]))
        return total

    def sums(self, connection: Connection, tables: Sequence[Table], userid: int) -> dict[str, Sum]:
        """See `Rows`."""
        by_name = {table.name: table for table in tables}
        query = " UNION ALL ".join(
            _summing(table, where)
            for table in tables
            for where in conditions(table, userid, EVERYTHING)
        )
        rows = connection.exec_driver_sql(query) if tables else ()
        return {
            name: _sum_of(by_name[name], userid, parts)
            for name, *parts in ((text_of(row[0]), *row[1:]) for row in rows)
        }

    def each(
        self, connection: Connection, table: Table, userid: int, span: Span, *, lock: bool = False
    ) -> dict[Key, str]:
        """See `Rows`."""
        names = "".join(f", {name_of(column.name)}" for column in table.key)
        found: dict[Key, str] = {}
        for where in conditions(table, userid, span):
            rows = connection.exec_driver_sql(
                f"SELECT MD5({literal_of(table.columns)}){names} FROM {name_of(table.name)} "  # noqa: S608
                f"WHERE {where}{' LOCK IN SHARE MODE' if lock else ''}"
            )
            found.update((key_of(table, row[1:]), text_of(row[0])) for row in rows)
        return found

    def counts(
        self, connection: Connection, tables: Sequence[Table], userid: int
    ) -> dict[str, int]:
        """See `Rows`."""
        query = " UNION ALL ".join(
            f"SELECT {quoted(table.name)}, COUNT(*) FROM {name_of(table.name)} "  # noqa: S608
            f"WHERE userid = {int(userid)}"
            for table in tables
        )
        rows = connection.exec_driver_sql(query) if tables else ()
        return {text_of(name): int(count) for name, count in rows}

    def highest(
        self, connection: Connection, table: Table, userid: int, column: str, span: Span
    ) -> int:
        """See `Rows`."""
        best = 0
        for where in conditions(table, userid, span):
            query = f"SELECT MAX({name_of(column)}) FROM {name_of(table.name)} WHERE {where}"  # noqa: S608
            best = max(best, int(connection.exec_driver_sql(query).scalar() or 0))
        return best


def _summing(table: Table, where: str, lock: bool = False) -> str:
    """The query that sums some rows: the table's name, and what `_sum_of` takes."""
    return (
        f"SELECT {quoted(table.name)}, COUNT(*), COUNT(h), "  # noqa: S608
        "BIT_XOR(CAST(CONV(LEFT(h, 16), 16, 10) AS UNSIGNED)), "
        "BIT_XOR(CAST(CONV(RIGHT(h, 16), 16, 10) AS UNSIGNED)) "
        f"FROM (SELECT MD5({literal_of(table.columns)}) AS h FROM {name_of(table.name)} "
        f"WHERE {where} LIMIT {_ALL}{' LOCK IN SHARE MODE' if lock else ''}) AS digests"
    )


def _sum_of(table: Table, userid: int, parts: Sequence[Any]) -> Sum:
    rows, summed, first, second = (int(value or 0) for value in parts)
    if rows != summed:
        raise MoveRefused(
            f"table {table}: a row of userid {userid} is longer than the server puts "
            "together; raise max_allowed_packet on both clusters"
        )
    return Sum(rows, first, second)


def _together(
    connection: Connection, spans: Sequence[tuple[Table, str]], lock: bool
) -> list[tuple[int, list[bytes]]] | None:
    """Of each condition how many rows there are, and all of them as one text.

    None: some would be too long.
    """
    locking = " LOCK IN SHARE MODE" if lock else ""
    queries = [
        f"SELECT {number}, COUNT(*), GROUP_CONCAT({literal_of(table.written)}) "  # noqa: S608
        f"FROM {name_of(table.name)} WHERE {where}{locking}"
        for number, (table, where) in enumerate(spans)
    ]
    query = queries[0] if len(queries) == 1 else " UNION ALL ".join(f"({q})" for q in queries)
    if getattr(connection.dialect, "is_mariadb", False):
        query = f"SET STATEMENT group_concat_max_len={_TOGETHER_BYTES} FOR {query}"
    else:
        hint = f"SELECT /*+ SET_VAR(group_concat_max_len={_TOGETHER_BYTES}) */ "
        query = query.replace("SELECT ", hint, 1)
    result = connection.exec_driver_sql(query)
    cursor: Any = result.cursor
    found = sorted(result.all())
    if cursor.warning_count:  # something was cut off, or left out
        return None
    return [(int(count), [] if text is None else [_bytes_of(text)]) for _, count, text in found]


def _one_by_one(
    connection: Connection, table: Table, userid: int, where: str, lock: bool
) -> tuple[int, list[bytes]]:
    """The same with a text for each row."""
    texts = connection.exec_driver_sql(
        f"SELECT {literal_of(table.written)} FROM {name_of(table.name)} "  # noqa: S608
        f"WHERE {where}{order_by(table)}{' LOCK IN SHARE MODE' if lock else ''}"
    ).scalars()
    rows = [None if text is None else _bytes_of(text) for text in texts]
    if None in rows:
        raise MoveRefused(
            f"table {table}: a row of userid {userid} is longer than the server puts together; "
            "raise max_allowed_packet on both clusters"
        )
    return len(rows), [row for row in rows if row is not None]


def _bytes_of(text: Any) -> bytes:
    return text.encode() if isinstance(text, str) else bytes(text)


def _run(connection: Connection, statement: bytes) -> None:
    """A long statement without parameters, past everything that would look into its text."""
    driver: Any = connection.connection.dbapi_connection
    driver.cmd_query(statement)
