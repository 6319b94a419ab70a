"""What `global` says of moves: reading them, and noting what happened in them."""

from __future__ import annotations

import builtins
import json
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select

from lj_services.database import Databases
from lj_services.usercluster.mover.errors import UnknownMove
from lj_services.usercluster.mover.states import Event, Move, Step
from lj_services.usercluster.mover.tables import ACTIVE, FINAL, now_ms, user_move, user_move_event
from lj_services.usercluster.tables import LIVE, user

LONGEST_MESSAGE = 1000

_COLUMNS = tuple(column for column in user_move.c if column.name != "active_userid")

# Built once: every small user pays for these.
_BY_NUMBER = select(*_COLUMNS).where(user_move.c.move_id == bindparam("number"))
_CLAIM = select(user_move.c.owner, user_move.c.claim).where(
    user_move.c.move_id == bindparam("number")
)
_HOME = select(user.c.clusterid, user.c.epoch).where(
    user.c.userid == bindparam("whom"), user.c.state == LIVE
)
_STEP = insert(user_move_event).values(
    move_id=bindparam("move_id"),
    at=now_ms() - bindparam("ago_ms"),
    state=bindparam("state"),
    message=bindparam("message"),
)


def _move(row: Any) -> Move:
    values = dict(row._mapping)
    values["options"] = json.loads(values["options"])
    values["progress"] = json.loads(values["progress"])
    return Move(**values)


class Records:
    """The moves in `global`, read.

    Args:
        databases: has ``global``.
    """

    def __init__(self, databases: Databases) -> None:
        self._databases = databases

    def get(self, move_id: int) -> Move:
        """A move by its number.

        Raises:
            UnknownMove: there is none.
        """
        with self._databases.read("global", definitive=True) as connection:
            return self._read(connection, move_id)

    def list(
        self,
        *,
        userid: int | None = None,
        active: bool | None = None,
        states: tuple[str, ...] = (),
        limit: int = 100,
    ) -> list[Move]:
        """Moves, the newest first.

        Args:
            userid: only this user's.
            active: only those that are not final (True), or final (False).
            states: only those in one of these.
            limit: how many at most.
        """
        query = select(*_COLUMNS).order_by(user_move.c.move_id.desc()).limit(limit)
        if userid is not None:
            query = query.where(user_move.c.userid == userid)
        if active is not None:
            final = user_move.c.state.in_(FINAL)
            query = query.where(~final if active else final)
        if states:
            query = query.where(user_move.c.state.in_(states))
        with self._databases.read("global", definitive=True) as connection:
            return [_move(row) for row in connection.execute(query)]

    def events(self, move_id: int) -> builtins.list[Event]:
        """What happened in a move, in order."""
        with self._databases.read("global", definitive=True) as connection:
            rows = connection.execute(
                select(user_move_event.c.at, user_move_event.c.state, user_move_event.c.message)
                .where(user_move_event.c.move_id == move_id)
                .order_by(user_move_event.c.event_id)
            ).all()
        return [Event(int(at), state, message) for at, state, message in rows]

    def now(self) -> int:
        """The clock of `global`, in milliseconds since 1970."""
        with self._databases.read("global", definitive=True) as connection:
            return int(connection.scalar(select(now_ms())) or 0)

    def due(self, limit: int = 200) -> builtins.list[Move]:
        """Moves that wait for a worker now: by priority, the oldest first."""
        query = (
            select(*_COLUMNS)
            .where(user_move.c.state.in_(ACTIVE))
            .where(user_move.c.due_at <= now_ms(), user_move.c.lease_until <= now_ms())
            .order_by(user_move.c.priority.desc(), user_move.c.move_id)
            .limit(limit)
        )
        with self._databases.read("global", definitive=True) as connection:
            return [_move(row) for row in connection.execute(query)]

    def home(self, userid: int) -> tuple[int, int] | None:
        """Where the user lives by `global`'s writer: (cluster, epoch); None: no such user."""
        with self._databases.read("global", definitive=True) as connection:
            row = connection.execute(_HOME, {"whom": userid}).first()
        return None if row is None else (int(row.clusterid), int(row.epoch))

    def holds(self, move: Move) -> bool:
        """Whether a claim is still the newest of its move, and the move not over."""
        with self._databases.read("global", definitive=True) as connection:
            row = connection.execute(_CLAIM, {"number": move.move_id}).first()
        return row is not None and (row.owner, int(row.claim)) == (move.owner, move.claim)

    def _read(self, connection: Connection, move_id: int, *, lock: bool = False) -> Move:
        query = _BY_NUMBER.with_for_update() if lock else _BY_NUMBER
        row = connection.execute(query, {"number": move_id}).first()
        if row is None:
            raise UnknownMove(f"there is no move {move_id}")
        return _move(row)

    def _note(self, connection: Connection, move_id: int, *steps: Step) -> None:
        values = [
            {
                "move_id": move_id,
                "ago_ms": round(step.ago_s * 1000),
                "state": step.state,
                "message": step.message[:LONGEST_MESSAGE],
            }
            for step in steps
        ]
        connection.execute(_STEP, values)  # the driver makes one statement of them
