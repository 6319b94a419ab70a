"""`rows.Rows` on MariaDB and MySQL: the server writes each row as an SQL literal.

A row is read as the text ``(17,x'4869',NULL)`` that the server composes, and that text goes
into the destination's ``REPLACE ... VALUES`` as it is.  So no value is ever converted by a
driver: zero dates, floats (as doubles, with every digit), bytes in any character set arrive as they
were; Python handles one string per row, which is also what makes it fast.  A row's digest is
the MD5 of the same text, so whatever would be sent differently also sums differently, and NULL
can't be mistaken for a value.  A span's sum is how many rows there are and the exclusive or of
each half of their digests.

Writing: ``REPLACE``, since a row may have to push out another one that holds its place in a
unique index until that one's own change arrives; with a SQL mode that takes values as they are.

Reading locks rows in share mode where exactness needs it: a locking read waits for a
transaction whose change is already in the binary log and not visible yet (semi-sync's
AFTER_SYNC), and the pools' READ COMMITTED keeps it from locking gaps.

Ranges of keys are written out column by column, since the servers use no index for a
comparison of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, text

from lj_services.usercluster.mover.discovery import Column, Schema, Table, classify
from lj_services.usercluster.mover.errors import MoveRefused
from lj_services.usercluster.mover.rows import Chunk, Key, Range, Span, Sum

INTEGERS: Final = {"tinyint", "smallint", "mediumint", "int", "bigint"}
_PLAIN: Final = {*INTEGERS, "decimal", "year"}
_FLOATS: Final = {"float", "double"}
_QUOTED: Final = {"date", "datetime", "time", "timestamp", "uuid", "inet4", "inet6"}
_TEXTS: Final = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"}
_BYTES: Final = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"}
_KEY_TEXTS: Final = {"char", "varchar"}
_KEY_CHARSETS: Final = {"utf8mb4", "utf8mb3", "utf8", "ascii"}
_KEY_BYTES: Final = {"binary", "varbinary"}

_MODE: Final = "STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES"
_STATEMENT_BYTES: Final = 1 << 20
_KEYS_AT_ONCE: Final = 500
_ALL: Final = 18_446_744_073_709_551_615
"""A limit that keeps the server from merging a subquery and computing each digest three times."""


class ServerRows:
    """The rows of one user in a database of a server."""

    def schema(self, connection: Connection, place: str) -> Schema:
        """See `Rows`."""
        mariadb = bool(getattr(connection.dialect, "is_mariadb", False))
        tables = connection.execute(
            text(
                "SELECT table_name, engine, table_type, avg_row_length "
                "FROM information_schema.tables WHERE table_schema = DATABASE() "
                "AND table_type NOT IN ('VIEW', 'SYSTEM VIEW') ORDER BY table_name"
            )
        ).all()
        columns: dict[str, list[Column]] = {}
        signature: list[str] = []
        for row in connection.execute(
            text(
                "SELECT table_name, column_name, data_type, column_type, is_nullable, "
                "column_default, character_set_name, collation_name, extra, "
                "generation_expression, character_octet_length FROM information_schema.columns "
                "WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position"
            )
        ):
            name, column, kind, full, nullable, default, charset, collation, extra, made, octets = (
                _text(value) for value in row
            )
            columns.setdefault(name, []).append(
                Column(
                    column,
                    kind.lower(),
                    full,
                    unsigned="unsigned" in full.lower(),
                    charset=charset,
                    length=int(octets) if octets is not None else None,
                    generated=bool(made),
                )
            )
            signature.append(
                f"{name}.{column} {full} nullable={nullable} default={default} "
                f"collation={collation} {extra} {made or ''}".rstrip()
            )
        keys: dict[str, list[str]] = {}
        indexes: dict[tuple[str, str], list[str]] = {}
        prefixed: set[str] = set()
        for row in connection.execute(
            text(
                "SELECT table_name, index_name, non_unique, column_name, sub_part "
                "FROM information_schema.statistics WHERE table_schema = DATABASE() "
                "ORDER BY table_name, index_name, seq_in_index"
            )
        ):
            name, index, loose, column, part = (_text(value) for value in row)
            if index == "PRIMARY":
                keys.setdefault(name, []).append(column)
                if part is not None:
                    prefixed.add(name)
            piece = f"{column}({part})" if part is not None else str(column)
            indexes.setdefault((name, f"{index} unique={int(loose) == 0}"), []).append(piece)
        signature += [f"{t} index {i}: {', '.join(parts)}" for (t, i), parts in indexes.items()]
        foreign = _names_of(
            connection,
            "SELECT DISTINCT table_name FROM information_schema.key_column_usage "
            "WHERE table_schema = DATABASE() AND referenced_table_name IS NOT NULL",
        )
        triggers = _names_of(
            connection,
            "SELECT DISTINCT event_object_table FROM information_schema.triggers "
            "WHERE event_object_schema = DATABASE()",
        )
        asked = []
        for name, engine, kind, _ in tables:
            name, against = _text(name), []
            if _text(kind) != "BASE TABLE":
                against.append(f"it is a {_text(kind).lower()}")
            if str(_text(engine)).lower() != "innodb":
                against.append(f"its engine is {_text(engine)}; only InnoDB's locks will do")
            if name in foreign:
                against.append("it has foreign keys, whose cascades the binary log does not show")
            if name in triggers:
                against.append("it has triggers, which would run twice")
            if name in prefixed:
                against.append("its primary key holds only the beginning of a column")
            by_name = {column.name: column for column in columns.get(name, [])}
            against += [
                f"its key column {part} ({by_name[part].type}) has no order that can be walked"
                for part in keys.get(name, [])[1:]
                if not _can_be_key(by_name[part])
            ]
            against += [
                f"column {column.name} is of a type that can't be moved: {column.type}"
                for column in by_name.values()
                if column.kind not in _PLAIN | _FLOATS | _QUOTED | _TEXTS | _BYTES | {"bit"}
            ]
            asked.append((name, list(by_name), keys.get(name, []), against))
        moving = set(classify(place, asked))
        widths = {_text(name): int(width or 100) for name, _, _, width in tables}
        found = []
        for name, _, key, _ in asked:
            if name in moving:
                by_name = {column.name: column for column in columns[name]}
                found.append(
                    Table(
                        name,
                        tuple(columns[name]),
                        tuple(by_name[part] for part in key[1:]),
                        widths[name],
                    )
                )
        return Schema("mariadb" if mariadb else "mysql", tuple(found), tuple(sorted(signature)))

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
        names = "".join(f", {_name(column.name)}" for column in table.key)
        rows: list[str] = []
        last: Key | None = None
        for where in _where(table, userid, span):
            found = connection.exec_driver_sql(
                f"SELECT {_literal(table.written)}{names} FROM {_name(table.name)} "  # noqa: S608
                f"WHERE {where}{_order(table)}"
                + (f" LIMIT {limit}" if limit is not None else "")
                + (" LOCK IN SHARE MODE" if lock else "")
            ).fetchall()
            for row in found:
                rows.append(_text(row[0]))
            if found:
                last = _key(table, found[-1][1:])
        if any(row is None for row in rows):
            raise MoveRefused(
                f"table {table}: a row of userid {userid} is longer than the server puts together; "
                "raise max_allowed_packet on both clusters"
            )
        return Chunk(rows, last, sum(map(len, rows)))

    def edge(
        self, connection: Connection, table: Table, userid: int, after: Key | None, rows: int
    ) -> Key | None:
        """See `Rows`."""
        if not table.key:
            return None
        (where,) = _where(table, userid, Range(after))
        names = ", ".join(_name(column.name) for column in table.key)
        row = connection.exec_driver_sql(
            f"SELECT {names} FROM {_name(table.name)} WHERE {where}{_order(table)} "  # noqa: S608
            f"LIMIT 1 OFFSET {rows - 1}"
        ).first()
        return None if row is None else _key(table, row)

    def put(self, connection: Connection, table: Table, rows: Sequence[Any]) -> None:
        """See `Rows`."""
        names = ", ".join(_name(column.name) for column in table.written)
        if getattr(connection.dialect, "is_mariadb", False):
            head = f"SET STATEMENT sql_mode='{_MODE}' FOR REPLACE INTO "
        else:
            head = f"REPLACE /*+ SET_VAR(sql_mode='{_MODE}') */ INTO "
        head += f"{_name(table.name)} ({names}) VALUES "
        start = 0
        while start < len(rows):
            size, end = 0, start
            while end < len(rows) and (size == 0 or size + len(rows[end]) < _STATEMENT_BYTES):
                size += len(rows[end])
                end += 1
            _run(connection, head + ",".join(rows[start:end]))
            start = end

    def erase(
        self, connection: Connection, table: Table, userid: int, span: Span, limit: int | None
    ) -> int:
        """See `Rows`."""
        gone = 0
        for where in _where(table, userid, span):
            query = f"DELETE FROM {_name(table.name)} WHERE {where}"  # noqa: S608
            if limit is not None:
                query += f"{_order(table)} LIMIT {limit - gone}"
            gone += connection.exec_driver_sql(query).rowcount
        return gone

    def sum(
        self, connection: Connection, table: Table, userid: int, span: Span, *, lock: bool = False
    ) -> Sum:
        """See `Rows`."""
        count = first = second = 0
        for where in _where(table, userid, span):
            row = connection.exec_driver_sql(
                "SELECT COUNT(*), COUNT(h), "  # noqa: S608
                "BIT_XOR(CAST(CONV(LEFT(h, 16), 16, 10) AS UNSIGNED)), "
                "BIT_XOR(CAST(CONV(RIGHT(h, 16), 16, 10) AS UNSIGNED)) "
                f"FROM (SELECT MD5({_literal(table.columns)}) AS h FROM {_name(table.name)} "
                f"WHERE {where} LIMIT {_ALL}{' LOCK IN SHARE MODE' if lock else ''}) AS digests"
            ).one()
            rows, summed, one, two = (int(value or 0) for value in row)
            if rows != summed:
                raise MoveRefused(
                    f"table {table}: a row of userid {userid} is longer than the server puts "
                    "together; raise max_allowed_packet on both clusters"
                )
            count, first, second = count + rows, first ^ one, second ^ two
        return Sum(count, first, second)

    def each(
        self, connection: Connection, table: Table, userid: int, span: Span, *, lock: bool = False
    ) -> dict[Key, str]:
        """See `Rows`."""
        names = "".join(f", {_name(column.name)}" for column in table.key)
        found: dict[Key, str] = {}
        for where in _where(table, userid, span):
            rows = connection.exec_driver_sql(
                f"SELECT MD5({_literal(table.columns)}){names} FROM {_name(table.name)} "  # noqa: S608
                f"WHERE {where}{' LOCK IN SHARE MODE' if lock else ''}"
            )
            found.update((_key(table, row[1:]), _text(row[0])) for row in rows)
        return found

    def count(self, connection: Connection, table: Table, userid: int) -> int:
        """See `Rows`."""
        query = f"SELECT COUNT(*) FROM {_name(table.name)} WHERE userid = {int(userid)}"  # noqa: S608
        return int(connection.exec_driver_sql(query).scalar() or 0)

    def highest(
        self, connection: Connection, table: Table, userid: int, column: str, span: Span
    ) -> int:
        """See `Rows`."""
        best = 0
        for where in _where(table, userid, span):
            query = f"SELECT MAX({_name(column)}) FROM {_name(table.name)} WHERE {where}"  # noqa: S608
            best = max(best, int(connection.exec_driver_sql(query).scalar() or 0))
        return best


def _run(connection: Connection, statement: str) -> None:
    """A long statement without parameters, past everything that would look into its text."""
    driver: Any = connection.connection.dbapi_connection
    driver.cmd_query(statement.encode())


def _name(name: str) -> str:
    return "`" + name.replace("`", "``").replace("%", "%%") + "`"


def _text(value: Any) -> Any:
    """Servers and drivers differ in whether a text arrives as bytes."""
    return bytes(value).decode() if isinstance(value, bytes | bytearray) else value


def _names_of(connection: Connection, query: str) -> set[str]:
    return {_text(name) for (name,) in connection.execute(text(query))}


def _order(table: Table) -> str:
    return " ORDER BY " + ", ".join(["userid", *(_name(c.name) for c in table.key)])


def _can_be_key(column: Column) -> bool:
    return (
        column.kind in INTEGERS
        or column.kind in _KEY_BYTES
        or (column.kind in _KEY_TEXTS and column.charset in _KEY_CHARSETS)
    )


def _literal(columns: Sequence[Column]) -> str:
    """The expression with which the server writes a row as an SQL literal."""
    parts = []
    for column in columns:
        name = _name(column.name)
        if column.kind in _PLAIN:
            parts.append(f"IFNULL({name}, 'NULL')")
        elif column.kind in _FLOATS:
            parts.append(f"IFNULL(CAST({name} AS DOUBLE), 'NULL')")
        elif column.kind in _QUOTED:
            parts.append(f"IFNULL(CONCAT('''', {name}, ''''), 'NULL')")
        elif column.kind == "bit":
            parts.append(f"IFNULL(CONCAT('b''', BIN({name} + 0), ''''), 'NULL')")
        else:
            parts.append(f"IFNULL(CONCAT('x''', HEX({name}), ''''), 'NULL')")
    return "CONCAT('(', " + ", ',', ".join(parts) + ", ')')"


def _value(column: Column, value: Any) -> str:
    """A part of a key as an SQL literal."""
    if column.kind in INTEGERS:
        return str(int(value))
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return f"_utf8mb4 x'{str(value).encode().hex()}'"


def _key(table: Table, values: Sequence[Any]) -> Key:
    parts: list[Any] = []
    for column, value in zip(table.key, values, strict=True):
        if column.kind in INTEGERS:
            parts.append(int(value))
        elif column.kind in _KEY_BYTES:
            parts.append(value.encode("latin-1") if isinstance(value, str) else bytes(value))
        else:
            parts.append(_text(value))
    return tuple(parts)


def _where(table: Table, userid: int, span: Span) -> list[str]:
    """The conditions of a span; several for many keys."""
    user = f"userid = {int(userid)}"
    if isinstance(span, Range):
        parts = [user]
        for bound, sign in ((span.after, ">"), (span.upto, "<")):
            if bound is None:
                continue
            if not table.key:
                parts.append("0" if sign == ">" else "1")
                continue
            parts.append(_beyond(table, bound, sign, inclusive=sign == "<"))
        return [" AND ".join(parts)]
    conditions = []
    for length, same in groupby(sorted(span.prefixes, key=len), key=len):
        prefixes = list(same)
        if length == 0:
            return [user]
        for start in range(0, len(prefixes), _KEYS_AT_ONCE):
            part = prefixes[start : start + _KEYS_AT_ONCE]
            columns = table.key[:length]
            if length == 1:
                values = ", ".join(_value(columns[0], prefix[0]) for prefix in part)
                conditions.append(f"{user} AND {_name(columns[0].name)} IN ({values})")
                continue
            each = " OR ".join(
                "("
                + " AND ".join(
                    f"{_name(column.name)} = {_value(column, value)}"
                    for column, value in zip(columns, prefix, strict=True)
                )
                + ")"
                for prefix in part
            )
            conditions.append(f"{user} AND ({each})")
    return conditions


def _beyond(table: Table, bound: Key, sign: str, *, inclusive: bool) -> str:
    """Rows beyond a key: ``a >= 1 AND (a > 1 OR (a = 1 AND b > 2))``."""
    condition = ""
    pairs = list(zip(table.key, bound, strict=True))
    for column, value in reversed(pairs):
        name, literal = _name(column.name), _value(column, value)
        if not condition:
            condition = f"{name} {sign}{'=' if inclusive else ''} {literal}"
        else:
            condition = f"({name} {sign} {literal} OR ({name} = {literal} AND {condition}))"
    if len(pairs) > 1:
        name, literal = _name(pairs[0][0].name), _value(*pairs[0])
        condition = f"{name} {sign}= {literal} AND {condition}"
    return condition
