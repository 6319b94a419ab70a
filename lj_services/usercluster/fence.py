"""The write fence: no write is accepted by two clusters, and none is lost in a move.

Rules.  Every cluster has a table ``user_home`` with a row (state, epoch, readonly,
move_id) for each user who lives there or lived there.  The states::

    importing --> active <--> frozen --> moved

- ``active``: writes are accepted, by those who come with the row's epoch.
- ``frozen``: a mover holds the user still for its last few milliseconds.
- ``importing``: a mover is copying the user here; the epoch is the coming one.
- ``moved``: a tombstone; the user lives elsewhere.  It stays for good, so that a router
  with an old route always learns of it.

A *writer* opens a transaction on the cluster that its route names and, before
anything else, reads the user's row with a shared lock.  It goes on only if the row is
``active``, has the route's epoch and is not readonly; the lock is held until its commit.
Otherwise it rolls back.  Readonly: `UserReadOnly`.  Else (``frozen``: after a little
wait; another epoch, ``moved``, ``importing`` or no row: at once) it reads its route from
`global` anew and goes there.

A *mover* changes the row with an exclusive lock (an UPDATE that it commits).  The
UPDATE to ``frozen`` returns only when every writer before it has committed, and every
writer after it sees ``frozen``.  From then on the source's rows stand still, and the
mover can verify, change `global` and set the tombstone at leisure.

Why it is safe.  Shared and exclusive locks on one row are ordered by one server; no
clock, no sleep and no cache takes part.  A route can be as stale as it likes: it
leads to a row that says no.  ``epoch`` makes "active" unambiguous when a user comes back
to a cluster: an old route then has an old epoch.  A mover that dies leaves a
``frozen`` row, which only its recovery thaws; writers meanwhile get `UserBusy`.

``readonly`` lies in the fence row because a check anywhere else could pass just before
the flag is set and write just after.  The record is ``user.readonly`` in `global`; it is
changed under that row's lock together with the fence (`set_readonly`), and only while the
fence is ``active``.  So a mover that has frozen a user copies ``readonly`` from the
source's fence row to the destination's, and nothing can change it in between.

``schema_ver`` lies in the fence row for the same reason: a writer must know, until its commit,
in which form the rows are.  It changes together with the rows, under the row's exclusive
lock (see `upgrade`), and whoever moves a user carries it over with ``readonly``.

Order of locks: `global` before a cluster.  A mover holds no lock of a cluster while it
waits for `global`'s row: its freeze is a committed state, not an open transaction.

On SQLite there are no row locks: a write transaction takes the whole database from
its start (BEGIN IMMEDIATE), which is the same order, only coarser.

Cost: one primary-key read in the transaction.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from prometheus_client import Counter
from sqlalchemy import Connection, bindparam, select, update

from lj_services.database import Databases, cluster_role
from lj_services.usercluster import versions
from lj_services.usercluster.errors import HomeMissing, UnknownVersion, UserBusy, UserReadOnly
from lj_services.usercluster.routes import User
from lj_services.usercluster.tables import ACTIVE, FROZEN, user_home

FENCE_RETRIES = Counter(
    "lj_usercluster_fence_retries_total", "writes that the fence sent back", ("why",)
)
FIRST_WAIT_S = 0.002
LONGEST_WAIT_S = 0.05


# Built once: every write pays for this statement.
_HOME = select(
    user_home.c.state, user_home.c.epoch, user_home.c.readonly, user_home.c.schema_ver
).where(user_home.c.userid == bindparam("whom"))
_SHARED = _HOME.with_for_update(read=True)
_EXCLUSIVE = _HOME.with_for_update()


class Verdict(Enum):
    """What a fence row means for a writer with a route."""

    GO = "go"
    FROZEN = "frozen"
    STALE_ROUTE = "stale route"
    READ_ONLY = "read-only"


@dataclass(frozen=True, slots=True)
class Home:
    """A fence row."""

    state: str
    epoch: int
    readonly: bool
    schema_ver: int = versions.FIRST
    """The version that the user's rows here are in."""

    def verdict(self, epoch: int) -> Verdict:
        """What a writer whose route has `epoch` must do."""
        if self.epoch != epoch or self.state not in (ACTIVE, FROZEN):
            return Verdict.STALE_ROUTE
        if self.state == FROZEN:
            return Verdict.FROZEN
        return Verdict.READ_ONLY if self.readonly else Verdict.GO


def read_home(connection: Connection, userid: int, *, exclusive: bool = False) -> Home | None:
    """Read a user's fence row under a lock that holds until the transaction ends.

    Args:
        connection: inside a write transaction on a cluster.
        userid: whose row.
        exclusive: for whoever is about to change the row; writers share.

    Returns:
        None if the cluster never knew the user.
    """
    row = connection.execute(_EXCLUSIVE if exclusive else _SHARED, {"whom": userid}).first()
    return None if row is None else home_from_row(row)


def home_from_row(row: Any) -> Home:
    """A `Home` of a row with its columns."""
    return Home(row.state, int(row.epoch), bool(row.readonly), int(row.schema_ver))


def active_here(connection: Connection, routes: Iterable[User]) -> set[int]:
    """Userids of those whose routes lead to this very cluster, and whom no mover holds.

    For whoever has read rows and wants to keep them, in a cache: asked after the rows, a yes
    says that they were not those of a home that had been left.  Takes no lock.

    Args:
        connection: reads the writer of a cluster.
        routes: of at most some hundred users.
    """
    epochs = {route.userid: route.epoch for route in routes}
    rows = connection.execute(
        select(user_home.c.userid, user_home.c.epoch).where(
            user_home.c.userid.in_(epochs), user_home.c.state == ACTIVE
        )
    )
    return {row.userid for row in rows if row.epoch == epochs[row.userid]}


class Waiting:
    """Waits between attempts, longer each time, within a budget.

    Args:
        budget_s: how long all waits together may take, in seconds.
    """

    def __init__(self, budget_s: float) -> None:
        self._deadline = time.monotonic() + budget_s
        self._budget_s = budget_s
        self._next = FIRST_WAIT_S

    def wait(self, userid: int, why: str) -> None:
        """Sleep a little.

        Raises:
            UserBusy: the budget is spent.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise UserBusy(
                f"userid {userid} is {why} for over {self._budget_s:g} s; try again in a moment"
            )
        time.sleep(min(left, self._next * random.uniform(0.5, 1.0)))  # noqa: S311
        self._next = min(self._next * 2, LONGEST_WAIT_S)


@contextmanager
def writing(
    databases: Databases, route: User, reload: Callable[[int], User], budget_s: float
) -> Iterator[Connection]:
    """A write transaction behind a user's fence, wherever they live by then.

    Args:
        databases: has the clusters.
        route: where the user is thought to live; may be stale.
        reload: reads the route from `global`.
        budget_s: how long to wait for a user who is being moved, in seconds.

    Raises:
        UserReadOnly: the user is.
        UnknownVersion: their rows are in a ``schema_ver`` that this program does not know.
        UserBusy: a move held them for longer than `budget_s`.
        HomeMissing: `global` and the cluster disagree; needs an operator.
    """
    waiting = Waiting(budget_s)
    fresh = False
    while True:
        with databases.write(cluster_role(route.clusterid)) as connection:
            home = read_home(connection, route.userid)
            verdict = home.verdict(route.epoch) if home is not None else Verdict.STALE_ROUTE
            if home is not None and verdict is Verdict.GO:
                if versions.too_new(home.schema_ver):
                    raise UnknownVersion(
                        f"{route.name} is in schema_ver {home.schema_ver}, this program knows up "
                        f"to {versions.newest()}: nothing was written; run the newer release"
                    )
                connection.execution_options(**{versions.VERSION_OPTION: home.schema_ver})
                yield connection
                return
        FENCE_RETRIES.labels(verdict.value).inc()
        if verdict is Verdict.READ_ONLY:
            raise UserReadOnly(f"{route.name} is read-only: nothing was written")
        if verdict is Verdict.FROZEN:
            waiting.wait(route.userid, "being moved")
        elif fresh:
            if home is None:
                raise HomeMissing(
                    f"userid {route.userid}: global says cluster {route.clusterid}, which does not "
                    "know them; nothing was written (was a cluster restored from an old copy?)"
                )
            waiting.wait(route.userid, f"{home.state} on cluster {route.clusterid}")
        # Also after a freeze: a mover may have died between the switch and the tombstone.
        before, route = route, reload(route.userid)
        fresh = (route.clusterid, route.epoch) == (before.clusterid, before.epoch)


def set_home_readonly(connection: Connection, route: User, readonly: bool) -> Verdict:
    """Set the flag in the fence row of a user who is not being moved.

    Args:
        connection: inside a write transaction on the user's cluster, under the lock of
            the user's row in `global`.
        route: as that row says.
        readonly: the flag.

    Returns:
        ``GO`` when it was set, else what stands in the way.

    Raises:
        HomeMissing: the cluster does not know the user.
    """
    home = read_home(connection, route.userid, exclusive=True)
    if home is None:
        raise HomeMissing(f"userid {route.userid}: cluster {route.clusterid} does not know them")
    verdict = home.verdict(route.epoch)
    if verdict in (Verdict.GO, Verdict.READ_ONLY):
        connection.execute(
            update(user_home).where(user_home.c.userid == route.userid).values(readonly=readonly)
        )
        return Verdict.GO
    return verdict
