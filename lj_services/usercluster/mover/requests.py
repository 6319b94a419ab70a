"""What operators ask of moves: that there be one, that it end, that it be tried again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from lj_services.usercluster.errors import NoCluster, UnknownUser
from lj_services.usercluster.mover.errors import AlreadyMoving, MoveRefused, SameCluster
from lj_services.usercluster.mover.records import LONGEST_MESSAGE, Records
from lj_services.usercluster.mover.states import Move, Step
from lj_services.usercluster.mover.tables import (
    AFTER_COMMIT,
    BEFORE_COMMIT,
    CANCELLED,
    FAILED,
    QUEUED,
    ROLLED_BACK,
    SWITCHED,
    now_ms,
    user_move,
)
from lj_services.usercluster.routes import User
from lj_services.usercluster.tables import LIVE, user


class Requests(Records):
    """The moves in `global`, for those who ask for them."""

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
                self._note(connection, move_id, Step(QUEUED, f"cluster {home.clusterid} to {dst}"))
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
        self._note(connection, move_id, Step(ROLLED_BACK, "the user moves back"))

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
                    .values(ending=ending, error=reason[:LONGEST_MESSAGE], due_at=0)
                )
                self._note(connection, move_id, Step(move.state, f"to be {ending}: {reason}"))
            return self._read(connection, move_id)

    def to_retry(self, move_id: int) -> Move:
        """A move for which `retry` has something to do.

        Raises:
            UnknownMove: there is none.
            MoveRefused: it is over, or past its commit point and no attempt has failed since.
        """
        move = self.get(move_id)
        if move.state in AFTER_COMMIT and not move.attempts:
            raise MoveRefused(
                f"{move} is {move.state}: there is nothing to try again; a worker purges the old "
                "rows when the grace time is over"
            )
        if move.final and move.state not in (FAILED, CANCELLED):
            raise MoveRefused(f"{move} is {move.state}: there is nothing to try again")
        return move

    def retry(self, move_id: int) -> Move:
        """Take up a move now that waits for its next attempt, or ask again for one that failed.

        Returns:
            the move, or the new one.

        Raises:
            UnknownMove, MoveRefused: see `to_retry`.
        """
        move = self.to_retry(move_id)
        if move.state in (FAILED, CANCELLED):
            return self.enqueue(move.userid, move.dst, priority=move.priority, options=move.options)
        with self._databases.write("global") as connection:
            connection.execute(
                update(user_move)
                .where(user_move.c.move_id == move_id, user_move.c.state == move.state)
                .values(due_at=0, attempts=0)
            )
        return self.get(move_id)
