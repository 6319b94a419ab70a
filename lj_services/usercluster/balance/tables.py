"""Which tables of a cluster are users', and how to count what a user has in them.

Found by looking, none is listed: a table with ``userid`` first in its primary key is the
users'.  What has no ``userid``, or is known to stay with the cluster, is not counted.  A table
that has a ``userid`` elsewhere could only be counted by reading all of it: it is refused.

Counting goes in primary-key order, a bounded number of rows at a time, so that no query is
long, whether it meets a thousand small users or a piece of a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    Connection,
    LargeBinary,
    and_,
    cast,
    column,
    false,
    func,
    inspect,
    literal,
    or_,
    select,
    table,
)
from sqlalchemy.types import JSON, NullType, String, _Binary

from lj_services.usercluster.balance.plan import BalanceError
from lj_services.usercluster.mover.discovery import staying

ROW_OVERHEAD = 20
"""Bytes that a row takes beside its values (InnoDB: header, transaction, roll pointer)."""
FIXED_WIDTH = 8
"""Bytes that a number or a time counts for."""

Key = tuple[Any, ...]
"""Values of a primary key, ``userid`` first."""


class SchemaNotCounted(BalanceError):
    """A table can't be counted by user: it has a ``userid`` that is not first in its key."""


@dataclass(frozen=True, slots=True)
class CountedTable:
    """A table of the users'.

    Attributes:
        name: of the table.
        key: the columns of its primary key, ``userid`` first.
        varying: columns whose values differ in length.
        fixed_bytes: what every row takes beside those.
    """

    name: str
    key: tuple[str, ...]
    varying: tuple[str, ...]
    fixed_bytes: int

    def row_bytes(self, engine: str) -> ColumnElement[Any]:
        """SQL for the bytes of a row."""
        total: ColumnElement[Any] = literal(self.fixed_bytes)
        for name in self.varying:
            value: ColumnElement[Any] = column(name)
            # SQLite counts characters of what is not a blob.
            size = cast(value, LargeBinary) if engine == "sqlite" else value
            total = total + func.coalesce(func.length(size), 0)
        return total

    def count(
        self, connection: Connection, userids: Sequence[int], after: Key | None, limit: int
    ) -> tuple[list[tuple[int, int, int]], Key | None]:
        """Count the next rows of some users, in the order of the primary key.

        Args:
            connection: reads the cluster.
            userids: ascending.
            after: the key up to which earlier calls counted; None: none yet.
            limit: rows to count at most.

        Returns:
            (userid, rows, bytes) of those who have rows in this piece, and the key up to
            which it reaches, None at the end.
        """
        keys: list[ColumnClause[Any]] = [column(name) for name in self.key]
        place = table(self.name, *keys, *(column(name) for name in self.varying))
        left = userids if after is None else [u for u in userids if u >= after[0]]
        where: ColumnElement[bool] = keys[0].in_(left)
        if after is not None:
            where = and_(where, beyond(keys, after))
        last = connection.execute(
            select(*keys).select_from(place).where(where).order_by(*keys).limit(1).offset(limit - 1)
        ).first()
        if last is not None:
            where = and_(where, or_(below(keys, tuple(last)), equal(keys, tuple(last))))
        rows = connection.execute(
            select(keys[0], func.count(), func.sum(self.row_bytes(connection.dialect.name)))
            .select_from(place)
            .where(where)
            .group_by(keys[0])
        ).all()
        found = [(int(userid), int(count), int(size)) for userid, count, size in rows]
        return found, None if last is None else tuple(last)


def beyond(keys: Sequence[ColumnElement[Any]], values: Key) -> ColumnElement[bool]:
    """Rows whose key comes after `values`; spelt out, for servers read row values badly."""
    return _beside(keys, values, greater=True)


def below(keys: Sequence[ColumnElement[Any]], values: Key) -> ColumnElement[bool]:
    """Rows whose key comes before `values`."""
    return _beside(keys, values, greater=False)


def equal(keys: Sequence[ColumnElement[Any]], values: Key) -> ColumnElement[bool]:
    """The row with this key."""
    return and_(*(key == value for key, value in zip(keys, values, strict=True)))


def _beside(
    keys: Sequence[ColumnElement[Any]], values: Key, *, greater: bool
) -> ColumnElement[bool]:
    cases: list[ColumnElement[bool]] = [false()]
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        case = key > value if greater else key < value
        cases.append(and_(equal(keys[:i], values[:i]), case) if i else case)
    return or_(*cases)


def counted_tables(connection: Connection) -> list[CountedTable]:
    """The users' tables of a cluster.

    Args:
        connection: reads the cluster.

    Raises:
        SchemaNotCounted: names the tables that can't be counted by user.
    """
    look = inspect(connection)
    found, wrong = [], []
    for name in sorted(look.get_table_names()):
        columns = look.get_columns(name)
        if name in staying() or "userid" not in {c["name"] for c in columns}:
            continue
        key = look.get_pk_constraint(name)["constrained_columns"]
        if not key or key[0] != "userid":
            wrong.append(name)
            continue
        varying = tuple(
            c["name"] for c in columns if isinstance(c["type"], String | _Binary | JSON | NullType)
        )
        fixed = ROW_OVERHEAD + FIXED_WIDTH * (len(columns) - len(varying))
        found.append(CountedTable(name, tuple(key), varying, fixed))
    if wrong:
        raise SchemaNotCounted(
            f"userid must come first in the primary key of {', '.join(wrong)}: otherwise every row "
            "would have to be read to find a user's"
        )
    return found
