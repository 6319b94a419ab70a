"""From a plan to queued moves: the plan's order is the order in which they go.

Repeating it does no harm: who lives there already, or is moving, is left alone.  A plan speaks
of the moment when it was made; a user who lives elsewhere by now is left alone too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from lj_services.database import Databases
from lj_services.usercluster.balance.plan import Move as Planned
from lj_services.usercluster.errors import UserClusterError
from lj_services.usercluster.mover import AlreadyMoving, Moves, SameCluster
from lj_services.usercluster.mover.tables import CANCELLED
from lj_services.usercluster.tables import LIVE, user

AT_ONCE = 500
"""Users whose homes are read at once."""


@dataclass(frozen=True, slots=True)
class Fed:
    """What became of one line of a plan.

    Attributes:
        planned: the line.
        move_id: the move that was queued, or would be (0) if nothing is to be changed.
        why_not: why none was queued; None: it was.
        settled: whether nothing is left to be done about it: the user is there, or on the way.
    """

    planned: Planned
    move_id: int | None
    why_not: str | None = None
    settled: bool = True


def feed(
    databases: Databases, plan: Sequence[Planned], *, priority: int = 0, dry_run: bool = False
) -> Iterator[Fed]:
    """Queue a plan's moves, one by one.

    Args:
        databases: the site's.
        plan: checked against the site.
        priority: of all of them; higher goes first.
        dry_run: change nothing.

    Yields:
        what became of each, in order.

    Raises:
        DatabaseError: ``global`` can't be reached; the same plan may be fed again.
    """
    moves = Moves(databases)
    for start in range(0, len(plan), AT_ONCE):
        some = plan[start : start + AT_ONCE]
        with databases.read("global", definitive=True) as connection:
            homes = {
                int(row.userid): int(row.clusterid)
                for row in connection.execute(
                    select(user.c.userid, user.c.clusterid).where(
                        user.c.userid.in_([planned.userid for planned in some]),
                        user.c.state == LIVE,
                    )
                )
            }
        for planned in some:
            home = homes.get(planned.userid)
            if home is None:
                yield Fed(planned, None, "there is no such user", settled=False)
            elif home == planned.dst:
                yield Fed(planned, None, f"lives on cluster {home} already")
            elif home != planned.src:
                yield Fed(planned, None, f"lives on cluster {home} by now", settled=False)
            elif dry_run:
                yield Fed(planned, 0)
            else:
                yield _queue(moves, planned, priority)


def _queue(moves: Moves, planned: Planned, priority: int) -> Fed:
    try:
        made = moves.enqueue(planned.userid, planned.dst, priority=priority)
    except (AlreadyMoving, SameCluster) as error:
        return Fed(planned, None, str(error))
    except UserClusterError as error:
        return Fed(planned, None, str(error), settled=False)
    if made.src != planned.src:
        moves.end(made.move_id, CANCELLED, f"the plan says cluster {planned.src}")
        return Fed(planned, None, f"lives on cluster {made.src} by now", settled=False)
    return Fed(planned, made.move_id)
