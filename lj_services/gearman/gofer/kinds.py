"""The kinds of columns, as a cursor's description tells them.  Source: PEP 249, type objects."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

_BINARY_CHARSET: Final = 63
_NUMBERS: Final = frozenset({0, 1, 2, 3, 4, 5, 8, 9, 13, 16, 246})
_TIMES: Final = frozenset({7, 10, 11, 12, 14})
_TEXTS: Final = frozenset({15, 245, 247, 248, 249, 250, 251, 252, 253, 254, 255})


def kinds_of(description: Any, rows: Sequence[Any]) -> list[tuple[str, str | None]]:
    """Name and kind of each column.

    Args:
        description: the driver's.
        rows: the first ones; SQLite's driver leaves it to their values to tell.
    """
    found = []
    for index, column in enumerate(description):
        kind = _of_code(column) if column[1] is not None else None
        if kind is None:
            values = (row[index] for row in rows)
            kind = next((_of_value(value) for value in values if value is not None), None)
        found.append((str(column[0]), kind))
    return found


def _of_code(column: Any) -> str | None:
    """The kind of MySQL's type; text and bytes have the same ones, but not the same charset."""
    code = column[1]
    if code in _NUMBERS:
        return "NUMBER"
    if code in _TIMES:
        return "DATETIME"
    if code in _TEXTS:
        charset = column[8] if len(column) > 8 else None
        return "BINARY" if charset == _BINARY_CHARSET else "STRING"
    return None


def _of_value(value: Any) -> str | None:
    match value:
        case str():
            return "STRING"
        case bytes() | bytearray():
            return "BINARY"
        case int() | float() | Decimal():
            return "NUMBER"
        case dt.date() | dt.time() | dt.timedelta():
            return "DATETIME"
    return None


class Kind:
    """A type object: equal to what a description says of columns of that kind."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __eq__(self, other: object) -> bool:
        return other == self._name if isinstance(other, str) else self is other

    def __hash__(self) -> int:
        return hash(self._name)

    def __repr__(self) -> str:
        return self._name


STRING: Final = Kind("STRING")
BINARY: Final = Kind("BINARY")
NUMBER: Final = Kind("NUMBER")
DATETIME: Final = Kind("DATETIME")
ROWID: Final = Kind("ROWID")
