"""SQL as the servers write and read it: rows as literals, keys as conditions.

Ranges of keys are written out column by column, since the servers use no index for a
comparison of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from lj_services.usercluster.mover.discovery import Column, Table
from lj_services.usercluster.mover.rows import Key, Range, Span

INTEGERS: Final = {"tinyint", "smallint", "mediumint", "int", "bigint"}
_PLAIN: Final = {*INTEGERS, "decimal", "year"}
_FLOATS: Final = {"float", "double"}
_QUOTED: Final = {"date", "datetime", "time", "timestamp", "uuid", "inet4", "inet6"}
_TEXTS: Final = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"}
_BYTES: Final = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"}
_KEY_TEXTS: Final = {"char", "varchar"}
_KEY_CHARSETS: Final = {"utf8mb4", "utf8mb3", "utf8", "ascii"}
_KEY_BYTES: Final = {"binary", "varbinary"}
_KEYS_AT_ONCE: Final = 500


def name_of(name: str) -> str:
    """A name as SQL takes it, in a statement that goes past the driver's formatting."""
    return "`" + name.replace("`", "``").replace("%", "%%") + "`"


def quoted(name: str) -> str:
    """A name as a string."""
    return f"_utf8mb4 x'{name.encode().hex()}'"


def text_of(value: Any) -> Any:
    """Servers and drivers differ in whether a text arrives as bytes."""
    return bytes(value).decode() if isinstance(value, bytes | bytearray) else value


def order_by(table: Table) -> str:
    """In the order of the primary key."""
    return " ORDER BY " + ", ".join(["userid", *(name_of(c.name) for c in table.key)])


def can_be_moved(column: Column) -> bool:
    """Whether a column's values can be written as literals without loss."""
    return column.kind in _PLAIN | _FLOATS | _QUOTED | _TEXTS | _BYTES | {"bit"}


def can_be_key(column: Column) -> bool:
    """Whether a column may be part of a key: its order can be walked."""
    return (
        column.kind in INTEGERS
        or column.kind in _KEY_BYTES
        or (column.kind in _KEY_TEXTS and column.charset in _KEY_CHARSETS)
    )


def literal_of(columns: Sequence[Column]) -> str:
    """The expression with which the server writes a row as an SQL literal."""
    parts = []
    for column in columns:
        literal, name = _literal(column), name_of(column.name)
        parts.append(f"IF({name} IS NULL, 'NULL', {literal})" if column.nullable else literal)
    return "CONCAT('(', " + ", ',', ".join(parts) + ", ')')"


def _literal(column: Column) -> str:
    """The expression with which the server writes a column that is not NULL."""
    name = name_of(column.name)
    if column.kind in _PLAIN:
        return name
    if column.kind in _FLOATS:
        return f"CAST({name} AS DOUBLE)"
    if column.kind in _QUOTED:
        return f"CONCAT('''', {name}, '''')"
    if column.kind == "bit":
        return f"CONCAT('b''', BIN({name} + 0), '''')"
    # Servers read this faster than a quoted text of half the length, and in any mode.
    return f"CONCAT('x''', HEX({name}), '''')"


def _value(column: Column, value: Any) -> str:
    """A part of a key as an SQL literal."""
    if column.kind in INTEGERS:
        return str(int(value))
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return f"_utf8mb4 x'{str(value).encode().hex()}'"


def key_of(table: Table, values: Sequence[Any]) -> Key:
    """A key from what the driver made of its columns."""
    parts: list[Any] = []
    for column, value in zip(table.key, values, strict=True):
        if column.kind in INTEGERS:
            parts.append(int(value))
        elif column.kind in _KEY_BYTES:
            parts.append(value.encode("latin-1") if isinstance(value, str) else bytes(value))
        else:
            parts.append(text_of(value))
    return tuple(parts)


def conditions(table: Table, userid: int, span: Span) -> list[str]:
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
                conditions.append(f"{user} AND {name_of(columns[0].name)} IN ({values})")
                continue
            each = " OR ".join(
                "("
                + " AND ".join(
                    f"{name_of(column.name)} = {_value(column, value)}"
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
        name, literal = name_of(column.name), _value(column, value)
        if not condition:
            condition = f"{name} {sign}{'=' if inclusive else ''} {literal}"
        else:
            condition = f"({name} {sign} {literal} OR ({name} = {literal} AND {condition}))"
    if len(pairs) > 1:
        name, literal = name_of(pairs[0][0].name), _value(*pairs[0])
        condition = f"{name} {sign}= {literal} AND {condition}"
    return condition
