"""Numberspaces: a user's own sequences of numbers for posts, comments, pictures ...

Rules.  A number is given out once per user and space, and later ones are higher.
Gaps are fine.  The counter (``usercounter``: the highest number given out) lies on the
user's cluster, is advanced inside the same transaction as the rows that use the
number, and moves with the user.

Why it is safe.  Advancing is one UPDATE, and its row lock lasts until the
transaction ends: two writers of one user and space are one after the other.  A
rollback gives the number back, together with the rows that would have used it.

A failover may bring back a copy that is a little older, and with it a lower counter,
while rows with higher numbers have been seen by people, feeds and caches.  So each number
is also noted in memcached (the *hint*), before the commit and under the row lock, which
keeps hints in order.  A counter below its hint has gone backwards: it continues at the
hint plus a gap, for those whose hint never arrived.  A rollback looks the same and
costs a gap.

A counter that is not there starts at the highest number that any table knows for that
user: `declare` says which columns hold numbers of a space, so that rows that outlived
their counter (an import, a lazy delete) keep theirs.

Source: LiveJournal's alloc_user_counter (``usercounter``, the key ``auc:<userid>:<area>``).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Table, TextClause, func, select, text

from lj_services.usercluster.routes import Cache
from lj_services.usercluster.tables import counter, user, usercounter

GAP = 100
"""How far beyond the hint a counter that went backwards continues."""
MOST_AT_ONCE = 10_000
HINTS_OPTION = "lj_number_hints"
"""Execution option of a connection: the cache that keeps hints; `Users.writing` sets it."""

_SPACE = re.compile(r"[a-z][a-z0-9_]{0,15}")
_declared: dict[str, list[Column[Any]]] = {}


def declare(space: str, *columns: Column[Any]) -> None:
    """Tell which columns hold numbers of `space`; next to the tables' definitions.

    Args:
        space: its name, ``[a-z][a-z0-9_]{0,15}``.
        columns: of tables with a column ``userid``.

    Raises:
        ValueError: a bad name, or a column of a table without ``userid``.
    """
    _check(space)
    for column in columns:
        if "userid" not in column.table.c:
            raise ValueError(f"{column} is in a table without userid")
        known = _declared.setdefault(space, [])
        if not any(column is other for other in known):
            known.append(column)


def declared() -> dict[str, tuple[Column[Any], ...]]:
    """All declared spaces and their columns: a mover checks its counters against them."""
    return {space: tuple(columns) for space, columns in _declared.items()}


def allocate(connection: Connection, userid: int, space: str, count: int = 1) -> int:
    """Take the next `count` numbers of a user's space.

    Args:
        connection: inside `Users.writing` for that user.
        userid: whose.
        space: its name, ``[a-z][a-z0-9_]{0,15}``.
        count: how many, 1..10000.

    Returns:
        the first of them; they follow one another.

    Raises:
        ValueError: a bad name or count.
    """
    _check(space)
    key: dict[str, int | str] = {"userid": userid, "area": space}
    return _allocate(connection, usercounter, key, count, _declared.get(space, []))


def allocate_userid(connection: Connection) -> int:
    """Take the next userid, in a write transaction on `global`."""
    return _allocate(connection, counter, {"area": "user"}, 1, [user.c.userid])


def _check(space: str) -> None:
    if not _SPACE.fullmatch(space):
        raise ValueError(f"{space!r} is no numberspace: [a-z][a-z0-9_]{{0,15}}")


def _allocate(
    connection: Connection,
    table: Table,
    key: dict[str, int | str],
    count: int,
    columns: list[Column[Any]],
) -> int:
    if not 1 <= count <= MOST_AT_ONCE:
        raise ValueError(f"count is 1..{MOST_AT_ONCE}, not {count}")
    hints: Cache | None = connection.get_execution_options().get(HINTS_OPTION)
    userid = int(key.get("userid", 0))
    hint_key = (userid, f"auc:{userid}:{key['area']}")
    hint = 0
    if hints is not None and isinstance(noted := hints.get(hint_key), int):
        hint = noted
    top = _advance(connection, table, key, count, hint)
    if top is None:
        start = max(_highest(connection, columns, key), hint + GAP if hint else 0)
        top = _start(connection, table, key, count, start)
    if hints is not None:
        hints.set(hint_key, top)
    return top - count + 1


def _advance(
    connection: Connection, table: Table, key: dict[str, int | str], count: int, hint: int
) -> int | None:
    """Raise the counter; None if it has no row.  Returns the new highest number."""
    on_sqlite = connection.dialect.name == "sqlite"
    values = {**key, "hint": hint, "gap": GAP, "count": count}
    result = connection.execute(_raise(table.name, tuple(key), on_sqlite), values)
    if on_sqlite:
        row = result.first()
        return None if row is None else int(row[0])
    return int(result.lastrowid) if result.rowcount else None


@cache
def _raise(table: str, key: tuple[str, ...], on_sqlite: bool) -> TextClause:
    where = " AND ".join(f"{name} = :{name}" for name in key)
    raised = "CASE WHEN max >= :hint THEN max ELSE :hint + :gap END + :count"
    if on_sqlite:
        return text(f"UPDATE {table} SET max = {raised} WHERE {where} RETURNING max")  # noqa: S608
    # LAST_INSERT_ID(expression) hands the new value back with the answer to the UPDATE.
    return text(f"UPDATE {table} SET max = LAST_INSERT_ID({raised}) WHERE {where}")  # noqa: S608


def _start(
    connection: Connection, table: Table, key: dict[str, int | str], count: int, start: int
) -> int:
    """Make the counter's row; another transaction may be faster, then raise theirs."""
    names, marks = ", ".join(key), ", ".join(f":{name}" for name in key)
    values = {**key, "start": start + count, "count": count}
    if connection.dialect.name == "sqlite":
        sql = f"INSERT INTO {table.name} ({names}, max) VALUES ({marks}, :start)"  # noqa: S608
        connection.execute(text(sql), values)
        return start + count
    result = connection.execute(
        text(
            f"INSERT INTO {table.name} ({names}, max) VALUES ({marks}, LAST_INSERT_ID(:start)) "  # noqa: S608
            "ON DUPLICATE KEY UPDATE max = LAST_INSERT_ID(max + :count)"
        ),
        values,
    )
    return int(result.lastrowid)


def _highest(connection: Connection, columns: list[Column[Any]], key: dict[str, int | str]) -> int:
    highest = 0
    for column in columns:
        query = select(func.max(column))
        if "userid" in key:
            query = query.where(column.table.c.userid == key["userid"])
        highest = max(highest, connection.scalar(query) or 0)
    return highest
