"""What operators have ordered, kept in `global`: pauses, limits, priorities.

The coordinator reads them again and again, so they may be given with or without it, and a restart
loses none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from lj_services.database import Databases
from lj_services.usercluster.coordinator.tables import mover_limit, mover_pause
from lj_services.usercluster.mover import Move, MoveRefused, Moves
from lj_services.usercluster.mover.tables import BEFORE_COMMIT, now_ms, user_move

LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Orders:
    """All that is ordered.

    Attributes:
        pauses: scope -> reason.
        limits: side of a cluster, as ``src:3`` -> limit -> value.
    """

    pauses: Mapping[str, str]
    limits: Mapping[str, Mapping[str, float]]


def read(connection: Connection) -> Orders:
    """The orders as they stand."""
    pauses = {row.scope: row.reason for row in connection.execute(select(mover_pause))}
    limits: dict[str, dict[str, float]] = {}
    for scope, name, value in connection.execute(select(mover_limit)):
        limits.setdefault(scope, {})[name] = float(value)
    return Orders(pauses, limits)


def orders(databases: Databases) -> Orders:
    """The orders as they stand.

    Raises:
        DatabaseError: ``global`` can't be reached.
    """
    with databases.read("global", definitive=True) as connection:
        return read(connection)


def pause(databases: Databases, scope: str, reason: str) -> None:
    """Pause a scope (see `jobs.scope`); again: the newer reason holds.

    Raises:
        DatabaseError: ``global`` can't be reached.
    """
    reason = reason[:LONGEST_REASON]
    with databases.write("global") as connection:
        which = mover_pause.c.scope == scope
        if not connection.execute(
            update(mover_pause).where(which).values(reason=reason, since=now_ms())
        ).rowcount:
            connection.execute(
                insert(mover_pause).values(scope=scope, reason=reason, since=now_ms())
            )


def resume(databases: Databases, scope: str) -> bool:
    """Let a scope go on; returns whether it was paused.

    Raises:
        DatabaseError: ``global`` can't be reached.
    """
    with databases.write("global") as connection:
        gone = connection.execute(delete(mover_pause).where(mover_pause.c.scope == scope)).rowcount
    return bool(gone)


def set_limits(databases: Databases, scope: str, values: Mapping[str, float]) -> None:
    """Set limits of one side of a cluster, over the settings; checked by the caller.

    Raises:
        DatabaseError: ``global`` can't be reached.
    """
    with databases.write("global") as connection:
        for name, value in values.items():
            which = (mover_limit.c.scope == scope, mover_limit.c.name == name)
            connection.execute(delete(mover_limit).where(*which))
            connection.execute(insert(mover_limit).values(scope=scope, name=name, value=value))


def reset_limits(databases: Databases, scope: str) -> bool:
    """Let the settings hold again for one side of a cluster; returns whether they did not.

    Raises:
        DatabaseError: ``global`` can't be reached.
    """
    with databases.write("global") as connection:
        gone = connection.execute(delete(mover_limit).where(mover_limit.c.scope == scope)).rowcount
    return bool(gone)


def set_priority(
    databases: Databases, move_id: int, priority: int, *, dry_run: bool = False
) -> Move:
    """Change a move's priority; higher ones go first.

    Args:
        databases: has ``global``.
        move_id: which.
        priority: the new one.
        dry_run: only tell whether it could be changed.

    Returns:
        the move, as it was before.

    Raises:
        UnknownMove, MoveRefused: there is none; it is past its commit point, or over.
        DatabaseError: ``global`` can't be reached.
    """
    move = Moves(databases).get(move_id)
    changed = move.state in BEFORE_COMMIT
    if changed and not dry_run:
        changed = _set_priority(databases, move_id, priority)
    if not changed:
        move = Moves(databases).get(move_id)
        raise MoveRefused(f"{move} is {move.state}: its priority does not matter any more")
    return move


def _set_priority(databases: Databases, move_id: int, priority: int) -> bool:
    with databases.write("global") as connection:
        return bool(
            connection.execute(
                update(user_move)
                .where(user_move.c.move_id == move_id, user_move.c.state.in_(BEFORE_COMMIT))
                .values(priority=priority)
            ).rowcount
        )
