"""The moves in `global`: the conditional UPDATEs that the rules in `states` are made of."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from lj_services.database import Databases
from lj_services.usercluster.errors import NoCluster, UnknownUser
from lj_services.usercluster.mover.errors import (
    AlreadyMoving,
    ClaimLost,
    Contradiction,
    EndAsked,
    MoveRefused,
    SameCluster,
    UnknownMove,
)
from lj_services.usercluster.mover.states import NEXT, Event, Move
from lj_services.usercluster.mover.tables import (
    BEFORE_COMMIT,
    CANCELLED,
    FAILED,
    FINAL,
    FROZEN,
    QUEUED,
    ROLLED_BACK,
    SWITCHED,
    now_ms,
    user_move,
    user_move_event,
)
from lj_services.usercluster.routes import User
from lj_services.usercluster.tables import LIVE, user

LONGEST_ERROR = 1000

_COLUMNS = tuple(column for column in user_move.c if column.name != "active_userid")


def _move(row: Any) -> Move:
    values = dict(row._mapping)
    values["options"] = json.loads(values["options"])
    values["progress"] = json.loads(values["progress"])
    return Move(**values)


class Moves:
    """The moves in `global`: every change of one goes through here.

    Args:
        databases: has ``global``.
    """

    def __init__(self, databases: Databases) -> None:
        self._databases = databases

    # --- Operators ---

    def enqueue(
        self,
        userid: int,
        dst: int,
        *,
        priority: int = 0,
        options: Mapping[str, Any] | None = None,
        back_of: int | None = None,
    ) -> Move:
        """Ask for a move.

        Args:
            userid: whom.
            dst: the cluster's number.
            priority: higher ones go first.
            options: settings for this move alone, as ``freeze_limit_ms``.
            back_of: the number of a ``switched`` move that this one undoes; it becomes
                ``rolled_back`` in the same transaction, and its rows are not purged.

        Raises:
            UnknownUser, NoCluster, SameCluster, AlreadyMoving: as their names say.
            MoveRefused: `back_of` is not, or no longer, a move that can be undone.
        """
        self._known(dst)
        try:
            with self._databases.write("global") as connection:
                home = connection.execute(
                    select(user.c.clusterid, user.c.epoch, user.c.name)
                    .where(user.c.userid == userid, user.c.state == LIVE)
                    .with_for_update()
                ).first()
                if home is None:
                    raise UnknownUser(f"there is no user with userid {userid}")
                if home.clusterid == dst:
                    raise SameCluster(f"{home.name} lives on cluster {dst} already")
                if back_of is not None:
                    self._roll_back(connection, back_of)
                made = connection.execute(
                    insert(user_move).values(
                        userid=userid,
                        active_userid=userid,
                        src=home.clusterid,
                        dst=dst,
                        home_epoch=home.epoch,
                        state=QUEUED,
                        claim=0,
                        lease_until=0,
                        due_at=0,
                        attempts=0,
                        priority=priority,
                        back_of=back_of,
                        options=json.dumps(dict(options or {})),
                        progress="{}",
                        created_at=now_ms(),
                    )
                ).inserted_primary_key
                assert made is not None
                move_id = int(made[0])
                self._note(connection, move_id, QUEUED, f"cluster {home.clusterid} to {dst}")
        except IntegrityError:
            raise self._already(userid) from None
        return self.get(move_id)

    def check(self, whom: User, dst: int) -> None:
        """Refuse what `enqueue` would; changes nothing.

        Raises:
            NoCluster, SameCluster, AlreadyMoving: as their names say.
        """
        self._known(dst)
        if whom.clusterid == dst:
            raise SameCluster(f"{whom.name} lives on cluster {dst} already")
        if self.list(userid=whom.userid, states=BEFORE_COMMIT):
            raise self._already(whom.userid)

    def _known(self, dst: int) -> None:
        if dst not in self._databases.clusters():
            known = ", ".join(map(str, self._databases.clusters())) or "none"
            raise NoCluster(f"there is no cluster {dst}; there are: {known}")

    def _already(self, userid: int) -> AlreadyMoving:
        other = next(iter(self.list(userid=userid, states=BEFORE_COMMIT)), None)
        which = f" by move {other.move_id}, {other.state}" if other else ""
        return AlreadyMoving(f"userid {userid} is being moved already{which}")

    def _roll_back(self, connection: Connection, move_id: int) -> None:
        changed = connection.execute(
            update(user_move)
            .where(user_move.c.move_id == move_id, user_move.c.state == SWITCHED)
            .where(user_move.c.lease_until <= now_ms())
            .values(state=ROLLED_BACK, claim=user_move.c.claim + 1, finished_at=now_ms())
        ).rowcount
        if not changed:
            raise MoveRefused(
                f"move {move_id} can't be undone: it is not switched, or a worker is just "
                "finishing or purging it"
            )
        self._note(connection, move_id, ROLLED_BACK, "the user moves back")

    def end(self, move_id: int, ending: str, reason: str) -> Move:
        """Ask that a move be undone; it is final when a worker has done so.

        Args:
            move_id: which.
            ending: ``cancelled`` or ``failed``.
            reason: for people.

        Raises:
            UnknownMove: there is none.
            MoveRefused: it is past its commit point, or final.
        """
        with self._databases.write("global") as connection:
            move = self._read(connection, move_id, lock=True)
            if move.state not in BEFORE_COMMIT:
                hint = "; the way back is lj users move --back" if move.state == SWITCHED else ""
                raise MoveRefused(f"{move} is {move.state}: it can't be {ending} now{hint}")
            if move.ending is None:
                connection.execute(
                    update(user_move)
                    .where(user_move.c.move_id == move_id)
                    .values(ending=ending, error=reason[:LONGEST_ERROR], due_at=0)
                )
                self._note(connection, move_id, move.state, f"to be {ending}: {reason}")
            return self._read(connection, move_id)

    def retry(self, move_id: int) -> Move:
        """Take up a move now that waits for its next attempt, or ask again for one that failed.

        Returns:
            the move, or the new one.

        Raises:
            UnknownMove, MoveRefused: there is none; it is done or was rolled back.
        """
        move = self.get(move_id)
        if move.state in (FAILED, CANCELLED):
            return self.enqueue(move.userid, move.dst, priority=move.priority, options=move.options)
        if move.final:
            raise MoveRefused(f"{move} is {move.state}: there is nothing to try again")
        with self._databases.write("global") as connection:
            connection.execute(
                update(user_move)
                .where(user_move.c.move_id == move_id, user_move.c.state == move.state)
                .where(user_move.c.state.in_(BEFORE_COMMIT))
                .values(due_at=0, attempts=0)
            )
        return self.get(move_id)

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

    # --- Workers ---

    def due(self, limit: int = 20) -> builtins.list[Move]:
        """Moves that wait for a worker now: by priority, the oldest first."""
        query = (
            select(*_COLUMNS)
            .where(user_move.c.state.not_in(FINAL))
            .where(user_move.c.due_at <= now_ms(), user_move.c.lease_until <= now_ms())
            .order_by(user_move.c.priority.desc(), user_move.c.move_id)
            .limit(limit)
        )
        with self._databases.read("global", definitive=True) as connection:
            return [_move(row) for row in connection.execute(query)]

    def claim(
        self,
        move: Move,
        owner: str,
        lease_s: float,
        allowed: Callable[[Connection], None] | None = None,
    ) -> Move:
        """Take a move for a worker.

        Args:
            move: as it was found.
            owner: the worker's name.
            lease_s: how long the claim holds without a sign of life, in seconds.
            allowed: called first, in the transaction of the claim; raises what forbids it.

        Raises:
            ClaimLost: somebody else was faster, or it is not due.
        """
        with self._databases.write("global") as connection:
            if allowed is not None:
                allowed(connection)
            changed = connection.execute(
                update(user_move)
                .where(
                    user_move.c.move_id == move.move_id,
                    user_move.c.claim == move.claim,
                    user_move.c.state == move.state,
                    user_move.c.state.not_in(FINAL),
                    user_move.c.lease_until <= now_ms(),
                    user_move.c.due_at <= now_ms(),
                )
                .values(
                    owner=owner,
                    claim=user_move.c.claim + 1,
                    attempts=user_move.c.attempts + 1,
                    lease_until=_from_now(lease_s),
                )
            ).rowcount
            if not changed:
                raise ClaimLost(f"{move} was taken by another worker")
            return self._read(connection, move.move_id)

    def advance(
        self,
        move: Move,
        state: str,
        message: str,
        *,
        progress: Mapping[str, Any] | None = None,
        lease_s: float | None = None,
    ) -> Move:
        """Go to the next state.

        Args:
            move: claimed by the caller.
            state: one that may follow (`NEXT`); past the commit point or final ones have
                methods of their own.
            message: for the record.
            progress: replaces what is known of the work done.
            lease_s: a new lease, in seconds.

        Raises:
            ClaimLost: the move is somebody else's now.
        """
        if state not in NEXT[move.state] or state == SWITCHED:
            raise ValueError(f"{move}: {state} does not follow {move.state}")
        values: dict[str, Any] = {"state": state}
        if move.started_at is None:
            values["started_at"] = now_ms()
        if progress is not None:
            values["progress"] = json.dumps(progress)
        if lease_s is not None:
            values["lease_until"] = _from_now(lease_s)
        if state in FINAL:
            values.update(active_userid=None, finished_at=now_ms(), owner=None, lease_until=0)
        with self._databases.write("global") as connection:
            self._change(connection, move, values)
            self._note(connection, move.move_id, state, message)
            return self._read(connection, move.move_id)

    def heartbeat(
        self, move: Move, lease_s: float, progress: Mapping[str, Any] | None = None
    ) -> Move:
        """Renew the lease and tell how far the work is.

        In ``frozen`` the lease stays as it is: a freeze has an end.

        Raises:
            ClaimLost: the move is somebody else's now.
        """
        values: dict[str, Any] = {}
        if move.state != FROZEN:
            values["lease_until"] = _from_now(lease_s)
        if progress is not None:
            values["progress"] = json.dumps(progress)
        with self._databases.write("global") as connection:
            if values:
                self._change(connection, move, values)
            return self._read(connection, move.move_id)

    def commit_point(self, move: Move, *, freeze_us: int) -> Move:
        """Make the destination the user's home: the one transaction that decides.

        Args:
            move: ``frozen``, claimed by the caller; the destination is equal and ready.
            freeze_us: how long the user was held so far, in microseconds.

        Raises:
            ClaimLost: the move is somebody else's now: nothing was changed.
            EndAsked: an operator wants it undone: nothing was changed.
            Contradiction: the user does not live on the source with that epoch.
            CommitUnknown: read `global` to learn whether it happened.
        """
        with self._databases.write("global") as connection:
            moved = connection.execute(
                update(user)
                .where(
                    user.c.userid == move.userid,
                    user.c.clusterid == move.src,
                    user.c.epoch == move.home_epoch,
                    user.c.state == LIVE,
                )
                .values(clusterid=move.dst, epoch=move.home_epoch + 1, rev=user.c.rev + 1)
            ).rowcount
            if not moved:
                raise Contradiction(
                    f"{move}: global does not have the user on cluster {move.src} with epoch "
                    f"{move.home_epoch}"
                )
            self._change(
                connection,
                move,
                {
                    "state": SWITCHED,
                    "active_userid": None,
                    "attempts": 0,
                    "ending": None,
                    "error": None,
                    "freeze_us": freeze_us,
                    "switched_at": now_ms(),
                },
                state=FROZEN,
                still=user_move.c.ending.is_(None),
            )
            self._note(connection, move.move_id, SWITCHED, f"cluster {move.dst} is home")
            return replace(move, state=SWITCHED, freeze_us=freeze_us)

    def release(
        self,
        move: Move,
        *,
        due_in_s: float = 0.0,
        error: str | None = None,
        message: str | None = None,
        ending: str | None = None,
        freeze_us: int | None = None,
        attempts: int | None = None,
    ) -> Move:
        """Give a move back.

        Args:
            move: claimed by the caller.
            due_in_s: not to be taken up for so many seconds.
            error: what went wrong, if something did.
            message: for the record, where nothing did.
            ending: it is to be undone.
            freeze_us: the whole length of its freeze, in microseconds.
            attempts: how often it counts as taken up; None: as it is.

        Raises:
            ClaimLost: it is somebody else's already.
        """
        values: dict[str, Any] = {
            "owner": None,
            "lease_until": 0,
            "due_at": _from_now(due_in_s),
        }
        if error is not None:
            values["error"] = error[:LONGEST_ERROR]
        if ending is not None:
            values["ending"] = ending
        if freeze_us is not None:
            values["freeze_us"] = freeze_us
        if attempts is not None:
            values["attempts"] = attempts
        with self._databases.write("global") as connection:
            self._change(connection, move, values)
            if told := error or message:
                self._note(connection, move.move_id, move.state, told)
            return self._read(connection, move.move_id)

    def note(self, move: Move, message: str) -> None:
        """Record something that happened."""
        with self._databases.write("global") as connection:
            self._note(connection, move.move_id, move.state, message)

    def home(self, userid: int) -> tuple[int, int] | None:
        """Where the user lives by `global`'s writer: (cluster, epoch); None: no such user."""
        with self._databases.read("global", definitive=True) as connection:
            row = connection.execute(
                select(user.c.clusterid, user.c.epoch).where(
                    user.c.userid == userid, user.c.state == LIVE
                )
            ).first()
        return None if row is None else (int(row.clusterid), int(row.epoch))

    def _change(
        self,
        connection: Connection,
        move: Move,
        values: Mapping[str, Any],
        state: str | None = None,
        still: ColumnElement[bool] | None = None,
    ) -> None:
        """The conditional UPDATE that every worker's change is."""
        more = () if still is None else (still,)
        changed = connection.execute(
            update(user_move)
            .where(
                user_move.c.move_id == move.move_id,
                user_move.c.owner == move.owner,
                user_move.c.claim == move.claim,
                user_move.c.state == (state or move.state),
                *more,
            )
            .values(**values)
        ).rowcount
        if not changed and more and self._read(connection, move.move_id).claim == move.claim:
            raise EndAsked(f"{move} is to be undone")
        if not changed:
            raise ClaimLost(f"{move} is not {move.owner}'s any more")

    def _read(self, connection: Connection, move_id: int, *, lock: bool = False) -> Move:
        query = select(*_COLUMNS).where(user_move.c.move_id == move_id)
        row = connection.execute(query.with_for_update() if lock else query).first()
        if row is None:
            raise UnknownMove(f"there is no move {move_id}")
        return _move(row)

    def _note(self, connection: Connection, move_id: int, state: str, message: str) -> None:
        connection.execute(
            insert(user_move_event).values(
                move_id=move_id, at=now_ms(), state=state, message=message[:1000]
            )
        )


def _from_now(seconds: float) -> ColumnElement[int]:
    return now_ms() + round(seconds * 1000)
