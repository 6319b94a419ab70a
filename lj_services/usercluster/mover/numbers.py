"""Numberspaces carried over: a counter is never below a number that is in use.

``usercounter`` is a table like the others, so it is copied, followed and verified with them.  On
top of that every column that holds numbers of a space (`numberspaces.declare`) is looked at: all of
it once before the freeze, then every row that changed since, as it comes by.  At the cut-over the
destination's counters are raised to what was seen, where they are lower; a user whose counter was
lost or restored from an older copy arrives with a good one.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, select, update

from lj_services.usercluster import numberspaces
from lj_services.usercluster.mover.discovery import Schema, Table
from lj_services.usercluster.mover.rows import EVERYTHING, Rows, Span
from lj_services.usercluster.tables import usercounter

Ceilings = dict[str, int]

_COUNTERS = select(usercounter.c.area, usercounter.c.max).where(
    usercounter.c.userid == bindparam("whom")
)


def look(
    ceilings: Ceilings, rows: Rows, connection: Connection, table: Table, userid: int, span: Span
) -> None:
    """Raise `ceilings` to the highest numbers that a table has within a span."""
    for space, columns in numberspaces.declared().items():
        for column in columns:
            if column.table.name == table.name and column.name in {c.name for c in table.columns}:
                top = rows.highest(connection, table, userid, column.name, span)
                ceilings[space] = max(ceilings.get(space, 0), top)


def look_everywhere(
    ceilings: Ceilings, rows: Rows, connection: Connection, schema: Schema, userid: int
) -> None:
    """The same for all tables and rows."""
    for table in schema.tables:
        look(ceilings, rows, connection, table, userid, EVERYTHING)


def raise_counters(connection: Connection, userid: int, ceilings: Ceilings) -> dict[str, int]:
    """Raise the counters that are below what was seen, in the caller's transaction.

    Returns:
        the spaces whose counters were raised, and to what.
    """
    wanted = {space: top for space, top in ceilings.items() if top > 0}
    if not wanted:
        return {}
    have = {area: int(top) for area, top in connection.execute(_COUNTERS, {"whom": userid})}
    raised = {space: top for space, top in wanted.items() if have.get(space, 0) < top}
    for space, top in raised.items():
        if space in have:
            connection.execute(
                update(usercounter)
                .where(usercounter.c.userid == userid, usercounter.c.area == space)
                .values(max=top)
            )
        else:
            connection.execute(insert(usercounter).values(userid=userid, area=space, max=top))
    return raised
