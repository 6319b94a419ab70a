"""The coordinator's SQL: what it reads of the moves, how it claims one, how it frees a user.

Everything here blocks, and is called on threads.  Nothing is kept here: the truth is in `global`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, or_, select

from lj_services.database import Databases
from lj_services.usercluster.coordinator import orders
from lj_services.usercluster.coordinator.jobs import Job
from lj_services.usercluster.coordinator.lock import Lock
from lj_services.usercluster.mover import ClaimLost, Contradiction, Move, MoverSettings, Moves
from lj_services.usercluster.mover import purge as purging
from lj_services.usercluster.mover.recovery import recover
from lj_services.usercluster.mover.tables import (
    AFTER_COMMIT,
    BEFORE_COMMIT,
    FROZEN,
    QUEUED,
    now_ms,
    user_move,
)
from lj_services.usercluster.mover.work import Work
from lj_services.usercluster.mover.worker import CONTRADICTION_S

log = logging.getLogger(__name__)

AT_ONCE = 500
"""Moves that one statement names at most."""
NEW_AT_ONCE = 5000
AHEAD_MS = 60_000
"""Purges are known so long before they are due."""

_COLUMNS = (
    user_move.c.move_id,
    user_move.c.userid,
    user_move.c.src,
    user_move.c.dst,
    user_move.c.state,
    user_move.c.ending,
    user_move.c.priority,
    user_move.c.owner,
    user_move.c.claim,
    user_move.c.lease_until,
    user_move.c.due_at,
    user_move.c.switched_at,
)


@dataclass(frozen=True, slots=True)
class News:
    """What was read at one moment.

    Attributes:
        jobs: moves.
        orders: the operators' orders.
        now: the clock of ``global``, in milliseconds.
    """

    jobs: list[Job]
    orders: orders.Orders
    now: int


def job_of(move: Move) -> Job:
    """A move as the schedule sees it."""
    return Job(**{name: getattr(move, name) for name in Job.__dataclass_fields__})


class Desk:
    """The moves in `global`, as the coordinator needs them.

    Args:
        databases: the site's.
        settings: the ``[mover]`` table of the site file.
        lock: held.
    """

    def __init__(self, databases: Databases, settings: MoverSettings, lock: Lock) -> None:
        self.moves = Moves(databases)
        self.databases = databases
        self.settings = settings
        self.lock = lock

    def everything(self) -> News:
        """All moves that are active: before their commit point, or soon to be purged."""
        return self._read(
            or_(
                user_move.c.state.in_(BEFORE_COMMIT),
                and_(
                    user_move.c.state.in_(AFTER_COMMIT), user_move.c.due_at <= now_ms() + AHEAD_MS
                ),
            )
        )

    def news(self, newest: int, known: Collection[int]) -> News:
        """What may have changed: new moves, and those that are named.

        Args:
            newest: the highest number of a move that is known.
            known: numbers of moves.
        """
        some = sorted(known)
        return self._read(
            and_(
                user_move.c.move_id > newest,
                user_move.c.state.in_((*BEFORE_COMMIT, *AFTER_COMMIT)),
            ),
            some,
        )

    def read(self, move_id: int) -> Job | None:
        """One move; None: there is none."""
        found = self._read(user_move.c.move_id == move_id).jobs
        return found[0] if found else None

    def _read(self, which: ColumnElement[bool], some: list[int] | None = None) -> News:
        with self.databases.read("global", definitive=True) as connection:
            now = int(connection.execute(select(now_ms())).scalar_one())
            query = select(*_COLUMNS).where(which).order_by(user_move.c.move_id)
            rows: list[Any] = list(
                connection.execute(query if some is None else query.limit(NEW_AT_ONCE))
            )
            for start in range(0, len(some or ()), AT_ONCE):
                named = (some or [])[start : start + AT_ONCE]
                rows += connection.execute(select(*_COLUMNS).where(user_move.c.move_id.in_(named)))
            return News([Job(*row) for row in rows], orders.read(connection), now)

    def claim(self, job: Job, worker: str) -> Job:
        """Claim a move in a worker's name, if this coordinator still rules.

        Raises:
            ClaimLost: it was taken, ended or changed meanwhile.
            AnotherRules: the term is over.
            DatabaseError: nobody knows whether it was claimed: read the move.
        """
        found = self.moves.get(job.move_id)
        if (found.claim, found.state, found.ending) != (job.claim, job.state, job.ending):
            raise ClaimLost(f"{found} has changed")
        return job_of(self.moves.claim(found, worker, self.settings.lease_s, allowed=self._allowed))

    def unclaim(self, job: Job) -> Job:
        """Give back a move that was claimed for a worker who never heard of it.

        Raises:
            ClaimLost: it is not as it was.
            DatabaseError: ``global`` can't be reached; its lease runs out.
        """
        found = self.moves.get(job.move_id)
        if (found.owner, found.claim) != (job.owner, job.claim):
            raise ClaimLost(f"{found} has changed")
        return job_of(self.moves.release(found, attempts=max(0, found.attempts - 1)))

    def _allowed(self, connection: Connection) -> None:
        self.lock.check(connection)

    # --- What no worker need be waited for ---

    def lapsed(self) -> list[Move]:
        """Moves that hold a user whose worker is silent, or that only need to be crossed off."""
        with self.databases.read("global", definitive=True) as connection:
            numbers = connection.scalars(
                select(user_move.c.move_id)
                .where(user_move.c.lease_until <= now_ms(), user_move.c.due_at <= now_ms())
                .where(
                    or_(
                        user_move.c.state == FROZEN,
                        and_(user_move.c.state == QUEUED, user_move.c.ending.is_not(None)),
                    )
                )
                .limit(AT_ONCE)
            ).all()
        return [self.moves.get(int(number)) for number in numbers]

    def settle(self, move: Move) -> Job:
        """Free the user whom a lapsed move holds, by the mover's own recovery; or cross it off.

        Returns:
            the move as it is then: before the freeze, waiting for a worker; or over.

        Raises:
            ClaimLost: a worker was quicker.
            AnotherRules: the term is over.
            DatabaseError: a database can't be reached; the move stays as it is.
        """
        # A short lease: should this process die here, the user must not be held for long.
        claimed = self.moves.claim(
            move,
            f"coordinator {self.lock.name}",
            self.settings.frozen_lease_s,
            allowed=self._allowed,
        )
        work = Work(self.databases, self.moves, self.settings, claimed)
        try:
            with work.alive():
                recover(work)
                if work.move.state == QUEUED and work.move.ending is not None:
                    purging.give_up(work)
                    return job_of(work.move)
        except Contradiction as error:
            log.error("%s", error)
            return job_of(self.moves.release(work.move, due_in_s=CONTRADICTION_S, error=str(error)))
        except BaseException as error:
            # Given back at once: a user may be held.
            self.moves.release(work.move, due_in_s=0.5, error=str(error))
            raise
        self.moves.note(work.move, "freed by the coordinator: its worker was silent")
        return job_of(self.moves.release(work.move, attempts=max(0, work.move.attempts - 1)))
