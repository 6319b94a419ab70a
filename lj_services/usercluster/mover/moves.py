"""The moves in `global`: the conditional UPDATEs that the rules in `states` are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, update

from lj_services.usercluster.mover.errors import ClaimLost, Contradiction, EndAsked
from lj_services.usercluster.mover.records import LONGEST_MESSAGE
from lj_services.usercluster.mover.requests import Requests
from lj_services.usercluster.mover.states import NEXT, Move, Step
from lj_services.usercluster.mover.tables import (
    CANCELLED,
    FAILED,
    FINAL,
    FROZEN,
    ROLLED_BACK,
    SWITCHED,
    now_ms,
    user_move,
)
from lj_services.usercluster.tables import LIVE, user


class Moves(Requests):
    """The moves in `global`: every change of one goes through here.

    What operators ask for is in `requests`, reading in `records`; here is what workers do with a
    move that they have claimed.
    """

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
        """Go to the next state (see `record`)."""
        if state == move.state:
            raise ValueError(f"{move}: {state} does not follow {move.state}")
        return self.record(move, [Step(state, message)], progress=progress, lease_s=lease_s)

    def record(
        self,
        move: Move,
        steps: Sequence[Step],
        *,
        progress: Mapping[str, Any] | None = None,
        lease_s: float | None = None,
    ) -> Move:
        """Record what has happened, in one transaction; the last step's state is the move's then.

        Args:
            move: claimed by the caller.
            steps: in order; each has the state of the one before it, or one that may follow
                (`NEXT`).  The commit point has a method of its own.
            progress: replaces what is known of the work done.
            lease_s: a new lease, in seconds.

        Raises:
            ClaimLost: the move is somebody else's now.
            EndAsked: it should be ``frozen``, but an operator wants it undone.
        """
        state = _follow(move, steps)
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
            if state == FROZEN:  # every millisecond counts from here on: nothing is read again
                self._change(connection, move, values, still=user_move.c.ending.is_(None))
                self._note(connection, move.move_id, *steps)
                return replace(move, state=state, progress=dict(progress or move.progress))
            self._change(connection, move, values)
            self._note(connection, move.move_id, *steps)
            if state in (FAILED, CANCELLED) and move.back_of is not None:
                # The user stays: the rows at the earlier home are to be purged after all.
                connection.execute(
                    update(user_move)
                    .where(user_move.c.move_id == move.back_of, user_move.c.state == ROLLED_BACK)
                    .values(state=SWITCHED, finished_at=None)
                )
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
            self._note(connection, move.move_id, Step(SWITCHED, f"cluster {move.dst} is home"))
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
            values["error"] = error[:LONGEST_MESSAGE]
        if ending is not None:
            values["ending"] = ending
        if freeze_us is not None:
            values["freeze_us"] = freeze_us
        if attempts is not None:
            values["attempts"] = attempts
        with self._databases.write("global") as connection:
            self._change(connection, move, values)
            if told := error or message:
                self._note(connection, move.move_id, Step(move.state, told))
            return self._read(connection, move.move_id)

    def note(self, move: Move, message: str) -> None:
        """Record something that happened."""
        with self._databases.write("global") as connection:
            self._note(connection, move.move_id, Step(move.state, message))

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


def _follow(move: Move, steps: Sequence[Step]) -> str:
    """The state that steps lead to.

    Raises:
        ValueError: they are not allowed.
    """
    state = move.state
    for step in steps:
        if step.state == state:
            continue
        if step.state not in NEXT[state] or step.state == SWITCHED:
            raise ValueError(f"{move}: {step.state} does not follow {state}")
        state = step.state
    return state


def _from_now(seconds: float) -> ColumnElement[int]:
    return now_ms() + round(seconds * 1000)
