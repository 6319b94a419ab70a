"""Bringing users to a newer ``schema_ver`` while they read and write.

A user's rows lie on a cluster, who they are in `global`; both know the version.  The one in
the fence row (`user_home`) is the truth: it changes in the same transaction as the rows, and a
writer reads it with the fence.  The one in `global` follows, for lists and for finding
those who are behind.

For each version on the way, one transaction on the user's cluster:

1. Take the fence row exclusively.  That waits for the writers who are in a transaction, and
   those who come later wait for this one.
2. Look at the version there.  It may be reached already: nothing is done then.
3. Run the step, and write its version into the fence row.

At the end the version goes into `global`, where it is lower, and into the cache.

Why it is safe.  A writer before the step has committed in the old form, and the step sees its
rows; one after it finds the new version in the row that it locks anyway.  A crash within
a step undoes it, rows and version; a crash after one leaves rows and version that agree, and the
next run goes on from there.  Two runs at once take turns at step 1.  The lock of a cluster is not
held while `global` is asked.

A move is nothing special.  Until its cut-over the fence is ``active`` and a step is a write like
others, which the mover follows; the cut-over carries the fence's version over together
with its flags.  While the fence is ``frozen`` a step waits, as a writer does.

Why it needs no mover.  A move lives long and in two places, so it has a record of its states, a
lease, and workers who take it over from each other.  A step is one transaction in one place: it
has happened or it has not, the fence row says which, and whoever runs it next goes on from there.

Users who are read-only are brought along: that flag is for what is written in their name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import update

from lj_services.database import DatabaseBusy, Databases, cluster_role
from lj_services.usercluster import fence, versions
from lj_services.usercluster.config import UserSettings
from lj_services.usercluster.errors import Downgrade, HomeMissing
from lj_services.usercluster.routes import User
from lj_services.usercluster.tables import LIVE, user, user_home
from lj_services.usercluster.users import Users

PAGE = 200
"""Users whose versions are looked up at once."""


@dataclass(frozen=True, slots=True)
class Behind:
    """A user whose rows, or whose record in `global`, are in a version before the wanted one."""

    user: User
    version: int
    """Of the rows."""


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What was done for a user."""

    user: User
    """As `global` has them now."""
    before: int
    """The version of their rows when it began."""
    held_ms: float
    """How long the user's writes were held by the longest step, in milliseconds."""


class Upgrader:
    """Brings users to newer versions; thread-safe.

    Args:
        databases: has ``global`` and the clusters.
        users: the site's users.
        settings: the ``[users]`` table of the site file.
    """

    def __init__(self, databases: Databases, users: Users, settings: UserSettings) -> None:
        self._databases = databases
        self._users = users
        self._settings = settings

    def behind(self, some: Sequence[User], to: int) -> list[Behind]:
        """Those of some users who are not at `to` yet, here or there.

        Users whom their cluster does not know are among them, with the version of `global`.
        """
        clusters: dict[int, list[int]] = {}
        for one in some:
            clusters.setdefault(one.clusterid, []).append(one.userid)
        known: dict[int, int] = {}
        for clusterid, userids in clusters.items():
            role = cluster_role(clusterid)
            with self._databases.read(role, definitive=True) as connection:
                known.update(versions.read(connection, userids))
        return [
            Behind(one, known.get(one.userid, one.schema_ver))
            for one in some
            if known.get(one.userid, 0) < to or one.schema_ver < to
        ]

    def find(self, cluster: int | None, to: int, limit: int | None = None) -> Iterator[Behind]:
        """Users who are not at `to` yet, in order of userid.

        Args:
            cluster: only those who live there.
            to: the version.
            limit: how many at most; None: all.
        """
        after, left = 0, limit
        while page := self._users.list(cluster, after=after, limit=PAGE):
            after = page[-1].userid
            for one in self.behind(page, to):
                if left == 0:
                    return
                yield one
                left = None if left is None else left - 1

    def upgrade(self, whom: User, to: int) -> Upgraded:
        """Bring a user to a version; more than once does no harm.

        Args:
            whom: a user who was just looked up.
            to: a version that this program knows.

        Raises:
            UnknownVersion: it does not.
            Downgrade: the user is in a later one.
            UnknownUser: there is none.
            UserBusy: a move, or writers, held the user for longer than ``freeze_wait_s``.
            HomeMissing: `global` and the cluster disagree; needs an operator.
            DatabaseError: whatever was done is whole; the same call goes on from there.
        """
        versions.check(to)
        before: int | None = None
        held_ms = 0.0
        reached = versions.FIRST
        while before is None or reached < to:
            whom, found, reached, took_ms = self._step(whom, to)
            before = found if before is None else before
            held_ms = max(held_ms, took_ms)
        if before > to:
            raise Downgrade(f"{whom.name} is in schema_ver {before}: there is no way back to {to}")
        return Upgraded(self._follow(whom.userid, reached), before, held_ms)

    def _step(self, whom: User, to: int) -> tuple[User, int, int, float]:
        """One step, where the user lives by then.

        Returns:
            the user's route, the versions before and after, and how long it held their writes.
        """
        waiting = fence.Waiting(self._settings.freeze_wait_s)
        fresh = False
        while True:
            try:
                with self._databases.write(cluster_role(whom.clusterid)) as connection:
                    home = fence.read_home(connection, whom.userid, exclusive=True)
                    since = time.monotonic()
                    verdict = (
                        home.verdict(whom.epoch) if home is not None else fence.Verdict.STALE_ROUTE
                    )
                    if home is not None and verdict in (fence.Verdict.GO, fence.Verdict.READ_ONLY):
                        version = home.schema_ver
                        if version < to:
                            version += 1
                            versions.step(version).run(connection, whom.userid)
                            connection.execute(
                                update(user_home)
                                .where(user_home.c.userid == whom.userid)
                                .values(schema_ver=version)
                            )
                if home is not None and verdict in (fence.Verdict.GO, fence.Verdict.READ_ONLY):
                    return whom, home.schema_ver, version, (time.monotonic() - since) * 1000
            except DatabaseBusy:
                waiting.wait(whom.userid, "kept locked by writers")
                continue
            if verdict is fence.Verdict.FROZEN:
                waiting.wait(whom.userid, "being moved")
            elif fresh:
                if home is None:
                    raise HomeMissing(
                        f"userid {whom.userid}: global says cluster {whom.clusterid}, which does "
                        "not know them; nothing was changed"
                    )
                waiting.wait(whom.userid, f"{home.state} on cluster {whom.clusterid}")
            was, whom = whom, self._users.reload(whom.userid)
            fresh = (whom.clusterid, whom.epoch) == (was.clusterid, was.epoch)

    def _follow(self, userid: int, version: int) -> User:
        """Let `global` and the cache know the version."""
        with self._databases.write("global") as connection:
            connection.execute(
                update(user)
                .where(user.c.userid == userid, user.c.state == LIVE, user.c.schema_ver < version)
                .values(schema_ver=version, rev=user.c.rev + 1)
            )
        return self._users.reload(userid)
