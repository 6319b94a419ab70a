"""`rows.Rows` on SQLite: values travel as Python's, sums are a function in the database's process.

SQLite types values, not columns, and Python's module gives each value back exactly as it was,
so rows are plain tuples.  The sum is an aggregate that SQLite calls with the columns of each
row: every value is encoded with its type and length, so that NULL, 0, ``'0'`` and ``x'30'``
all differ.

Locks: a write transaction holds the whole database (`fence`), a reading one sees one moment.
"""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from lj_services.usercluster.mover.discovery import Column, Schema, Table, classify
from lj_services.usercluster.mover.rows import EVERYTHING, Chunk, Key, Print, Range, Span, Sum

_VARIABLES = 30_000
"""SQLite takes 32,766 values in one statement."""
_KEYS_AT_ONCE = 400
NOTES = "move_dirty_"
"""How names of the mover's own tables and triggers begin (`noting`)."""


class SqliteRows:
    """The rows of one user in an SQLite file."""

    def fingerprint(self, connection: Connection) -> Print | None:
        """See `Rows`: SQLite counts its changes itself."""
        return Print(str(connection.exec_driver_sql("PRAGMA schema_version").scalar()), True)

    def schema(self, connection: Connection, place: str) -> Schema:
        """See `Rows`."""
        found: dict[str, tuple[list[Column], list[str], list[str]]] = {}
        signature: list[str] = []
        objects = connection.execute(
            text(
                "SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT GLOB 'sqlite_*' "
                "AND name NOT GLOB :ours ORDER BY name"
            ),
            {"ours": f"{NOTES}*"},
        ).all()
        triggers = {tbl for kind, _, tbl in objects if kind == "trigger"}
        for kind, name, _ in objects:
            if kind != "table":
                continue
            columns, key, against = [], {}, []
            for row in pragma(connection, "table_xinfo", name):
                _, column, declared, notnull, default, rank, hidden = row
                columns.append(Column(column, declared.lower(), declared, generated=hidden > 0))
                signature.append(
                    f"{name}.{column} {declared} notnull={notnull} default={default} "
                    f"key={rank} generated={hidden}"
                )
                if rank:
                    key[rank] = column
                if rank > 1 and not notnull:
                    against.append(
                        f"column {column} of its primary key may be NULL in SQLite, and equals "
                        "nothing then: declare it NOT NULL"
                    )
            for _, index, unique, origin, partial in pragma(connection, "index_list", name):
                parts = ",".join(str(row[2]) for row in pragma(connection, "index_info", index))
                if not index.startswith("sqlite_"):
                    parts = f"{index} {parts}"
                signature.append(f"{name} index {parts} unique={unique} {origin} partial={partial}")
            if pragma(connection, "foreign_key_list", name):
                against.append("it has foreign keys, whose cascades nothing shows")
            if name in triggers:
                against.append("it has triggers, which would run twice")
            found[name] = (columns, [key[rank] for rank in sorted(key)], against)
        moving = classify(
            place,
            (
                (name, [column.name for column in columns], names, against)
                for name, (columns, names, against) in found.items()
            ),
        )
        tables = []
        for name in moving:
            columns, names, _ = found[name]
            by_name = {column.name: column for column in columns}
            tables.append(Table(name, tuple(columns), tuple(by_name[n] for n in names[1:])))
        return Schema("sqlite", tuple(tables), tuple(sorted(signature)))

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
        names = [column.name for column in table.written]
        key_at = [names.index(column.name) for column in table.key]
        rows: list[Any] = []
        for where, values in _where(table, userid, span):
            query = f"SELECT {names_of(names)} FROM {name_of(table.name)} WHERE {where}"  # noqa: S608
            query += _order(table) + (f" LIMIT {limit}" if limit is not None else "")
            rows += [tuple(row) for row in connection.exec_driver_sql(query, values)]
        more = limit is not None and len(rows) >= limit
        last = tuple(rows[-1][at] for at in key_at) if more else None
        return Chunk(rows, len(rows), last, sum(_weight(row) for row in rows))

    def chunks(
        self, connection: Connection, tables: Sequence[Table], userid: int
    ) -> dict[str, Chunk]:
        """See `Rows`."""
        return {
            table.name: self.chunk(connection, table, userid, EVERYTHING, None, lock=True)
            for table in tables
        }

    def edge(
        self, connection: Connection, table: Table, userid: int, after: Key | None, rows: int
    ) -> Key | None:
        """See `Rows`."""
        if not table.key:
            return None
        ((where, values),) = _where(table, userid, Range(after))
        query = (
            f"SELECT {names_of(c.name for c in table.key)} FROM {name_of(table.name)} "  # noqa: S608
            f"WHERE {where}{_order(table)} LIMIT 1 OFFSET {rows - 1}"
        )
        row = connection.exec_driver_sql(query, values).first()
        return None if row is None else tuple(row)

    def put(self, connection: Connection, table: Table, rows: Sequence[Any]) -> None:
        """See `Rows`."""
        if not rows:
            return
        names = [column.name for column in table.written]
        many = max(1, _VARIABLES // len(names))
        one = "(" + ",".join("?" * len(names)) + ")"
        for start in range(0, len(rows), many):
            part = rows[start : start + many]
            query = f"REPLACE INTO {name_of(table.name)} ({names_of(names)}) VALUES "  # noqa: S608
            query += ",".join([one] * len(part))
            connection.exec_driver_sql(query, tuple(value for row in part for value in row))

    def erase(
        self, connection: Connection, table: Table, userid: int, span: Span, limit: int | None
    ) -> int:
        """See `Rows`."""
        gone = 0
        for where, values in _where(table, userid, span):
            query = f"DELETE FROM {name_of(table.name)} WHERE {where}"  # noqa: S608
            if limit is not None:
                # With `userid` outside, SQLite finds the rows by the whole key.
                keys = names_of([column.name for column in table.key] or ["userid"])
                query = (
                    f"DELETE FROM {name_of(table.name)} WHERE userid = ? AND ({keys}) IN "  # noqa: S608
                    f"(SELECT {keys} FROM {name_of(table.name)} WHERE {where} LIMIT {limit - gone})"
                )
                values = (userid, *values)
            gone += connection.exec_driver_sql(query, values).rowcount
        return gone

    def sum(
        self, connection: Connection, table: Table, userid: int, span: Span, *, lock: bool = False
    ) -> Sum:
        """See `Rows`."""
        _teach(connection, len(table.columns))
        count = first = second = 0
        for where, values in _where(table, userid, span):
            told = connection.exec_driver_sql(
                f"SELECT lj_sum({names_of(c.name for c in table.columns)}) "  # noqa: S608
                f"FROM {name_of(table.name)} WHERE {where}",
                values,
            ).scalar()
            rows, one, two = (int(part, 16) for part in str(told or "0 0 0").split())
            count, first, second = count + rows, first ^ one, second ^ two
        return Sum(count, first, second)

    def each(
        self, connection: Connection, table: Table, userid: int, span: Span, *, lock: bool = False
    ) -> dict[Key, str]:
        """See `Rows`."""
        _teach(connection, len(table.columns))
        columns = [f"lj_digest({names_of(c.name for c in table.columns)})"]
        columns += [name_of(column.name) for column in table.key]
        found: dict[Key, str] = {}
        for where, values in _where(table, userid, span):
            rows = connection.exec_driver_sql(
                f"SELECT {', '.join(columns)} FROM {name_of(table.name)} WHERE {where}",  # noqa: S608
                values,
            )
            found.update((tuple(key), digest) for digest, *key in rows)
        return found

    def sums(self, connection: Connection, tables: Sequence[Table], userid: int) -> dict[str, Sum]:
        """See `Rows`."""
        return {table.name: self.sum(connection, table, userid, EVERYTHING) for table in tables}

    def counts(
        self, connection: Connection, tables: Sequence[Table], userid: int
    ) -> dict[str, int]:
        """See `Rows`."""
        found = {}
        for table in tables:
            query = f"SELECT COUNT(*) FROM {name_of(table.name)} WHERE userid = ?"  # noqa: S608
            found[table.name] = int(connection.exec_driver_sql(query, (userid,)).scalar() or 0)
        return found

    def highest(
        self, connection: Connection, table: Table, userid: int, column: str, span: Span
    ) -> int:
        """See `Rows`."""
        best = 0
        for where, values in _where(table, userid, span):
            query = f"SELECT MAX({name_of(column)}) FROM {name_of(table.name)} WHERE {where}"  # noqa: S608
            best = max(best, int(connection.exec_driver_sql(query, values).scalar() or 0))
        return best


def name_of(name: str) -> str:
    """A name as a statement takes it."""
    return '"' + name.replace('"', '""') + '"'


def names_of(names: Any) -> str:
    """Several of them."""
    return ", ".join(name_of(name) for name in names)


def _order(table: Table) -> str:
    return f" ORDER BY {names_of(c.name for c in table.key)}" if table.key else ""


def pragma(connection: Connection, what: str, name: str) -> list[Any]:
    """What SQLite tells of a table or an index."""
    return list(connection.exec_driver_sql(f"SELECT * FROM pragma_{what}(?)", (name,)))  # noqa: S608


def _where(table: Table, userid: int, span: Span) -> list[tuple[str, tuple[Any, ...]]]:
    """The conditions of a span and their values; several for many keys."""
    keys = [column.name for column in table.key]
    if isinstance(span, Range):
        where, values = ["userid = ?"], [userid]
        for bound, sign in ((span.after, ">"), (span.upto, "<=")):
            if bound is None:
                continue
            if not keys:
                where.append("0" if sign == ">" else "1")
                continue
            where.append(f"({names_of(keys)}) {sign} ({', '.join('?' * len(keys))})")
            values += bound
        return [(" AND ".join(where), tuple(values))]
    # One condition for all keys with the same head: SQLite looks at all of the user's rows for
    # `(a, b) IN (VALUES ...)`, but finds those of `a = ? AND b IN (VALUES ...)` by the index.
    ends: dict[Key, list[Any]] = defaultdict(list)
    for prefix in span.prefixes:
        if not prefix:
            return [("userid = ?", (userid,))]
        ends[prefix[:-1]].append(prefix[-1])
    conditions = []
    for head, last in ends.items():
        where = ["userid = ?", *(f"{name_of(name)} = ?" for name in keys[: len(head)])]
        for start in range(0, len(last), _KEYS_AT_ONCE):
            part = last[start : start + _KEYS_AT_ONCE]
            among = f"{name_of(keys[len(head)])} IN (VALUES {', '.join(['(?)'] * len(part))})"
            conditions.append((" AND ".join([*where, among]), (userid, *head, *part)))
    return conditions


def _weight(row: tuple[Any, ...]) -> int:
    return sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)


def _encode(values: tuple[Any, ...]) -> bytes:
    parts = []
    for value in values:
        if value is None:
            parts.append(b"n")
        elif isinstance(value, int):
            digits = str(value).encode()
            parts.append(b"i%d:%b" % (len(digits), digits))
        elif isinstance(value, float):
            parts.append(b"f" + struct.pack(">d", value))
        else:
            raw, mark = (value.encode(), b"t") if isinstance(value, str) else (value, b"b")
            parts.append(b"%b%d:%b" % (mark, len(raw), raw))
    return b"".join(parts)


def _digest(*values: Any) -> str:
    return hashlib.blake2b(_encode(values), digest_size=16).hexdigest()


class _SumOfRows:
    def __init__(self) -> None:
        self.count = self.first = self.second = 0

    def step(self, *values: Any) -> None:
        digest = hashlib.blake2b(_encode(values), digest_size=16).digest()
        self.count += 1
        self.first ^= int.from_bytes(digest[:8], "big")
        self.second ^= int.from_bytes(digest[8:], "big")

    def finalize(self) -> str:
        return f"{self.count:x} {self.first:x} {self.second:x}"


def _teach(connection: Connection, columns: int) -> None:
    """Give the connection the two functions, for rows of so many columns."""
    driver: Any = connection.connection.dbapi_connection
    driver.create_function("lj_digest", columns, _digest, deterministic=True)
    driver.create_aggregate("lj_sum", columns, _SumOfRows)
