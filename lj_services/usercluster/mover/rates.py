"""How much each user writes: from what change feeds count to what balancing plans by.

A worker's feed of a cluster sees the row changes of all its users while it has moves from there.
Each time that it has watched for long enough its counts are made rates here, and recorded.

- Rates are *smoothed* over `MEMORY_S`, so that one busy minute is no reason to move.  What was
  recorded earlier, by whomever, is where a worker begins, so that rates outlive it.  Of a cluster
  of which nothing was recorded the plain mean counts until as much was seen.
- Only what has *changed* is written: by a tenth, or to nothing.  A worker who is the only one to
  watch a thousand steady users writes nothing at all.
- *The mover's own rows are no writes of the user.*  A move's copy and the purge of an earlier home
  come by in the same log.  So only users count who live on the cluster by then, and have not
  just arrived.  Users whom no survey has met have no record to write to, and are passed over.
- Several workers who watch one cluster see the same log, and so record the same rates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping

from sqlalchemy import select

from lj_services.database import Databases
from lj_services.usercluster.balance.store import balance_user, record_write_rates
from lj_services.usercluster.mover.tables import AFTER_COMMIT, now_ms, user_move
from lj_services.usercluster.tables import user

MEMORY_S = 600.0
"""Seconds over which rates are smoothed."""
LEAST = 1e-3
"""Writes a second below which a user counts as writing nothing."""
WORTH = 0.1
"""The share by which a rate must have changed to be written again."""
LATE_S = 60.0
"""Seconds that the feed of a new home may be behind what was copied there."""
_AT_ONCE = 1000


class WriteRates:
    """The users of one cluster.

    Args:
        databases: the site's; rates are recorded in ``global``.
        clusterid: which one.
    """

    def __init__(self, databases: Databases, clusterid: int) -> None:
        self._databases = databases
        self._cluster = clusterid
        self._rates: dict[int, float] | None = None
        self._known_s = 0.0
        self._looked_at = 0.0

    def learn(self, writes: Mapping[int, int], seconds: float) -> None:
        """Take counts in, and record what has changed by them.

        Args:
            writes: row changes by userid; who is missing wrote nothing.
            seconds: how long those came in.

        Raises:
            DatabaseError: ``global`` is out of reach; these counts are lost.
        """
        if self._rates is None:
            self._rates = self._earlier()
            self._known_s = MEMORY_S if self._rates else 0.0
            self._looked_at = time.monotonic() - seconds
        last, self._looked_at = self._looked_at, time.monotonic()
        self._known_s += seconds
        weight = max(1 - math.exp(-seconds / MEMORY_S), seconds / self._known_s)
        settled = self._settled(self._rates.keys() | writes.keys(), self._looked_at - last)
        rates, changed = {}, {}
        for userid, recorded in settled.items():
            before = self._rates.get(userid, recorded)
            now = before + weight * (writes.get(userid, 0) / seconds - before)
            if now >= LEAST:
                rates[userid] = now
            else:
                now = 0.0
            if _differs(now, recorded):
                changed[userid] = now
        self._rates = rates
        record_write_rates(self._databases, changed)

    def _earlier(self) -> dict[int, float]:
        """What was recorded of the cluster's users, where it is anything."""
        with self._databases.read("global", definitive=True) as connection:
            rows = connection.execute(
                select(user.c.userid, balance_user.c.write_rate)
                .join(balance_user, balance_user.c.userid == user.c.userid)
                .where(user.c.clusterid == self._cluster, balance_user.c.write_rate > 0)
            )
            return {int(userid): float(rate) for userid, rate in rows}

    def _settled(self, userids: Iterable[int], seconds: float) -> dict[int, float]:
        """Who lives on the cluster, and the rate that is recorded of them.

        Args:
            userids: of whom.
            seconds: leave out who has arrived within so long.
        """
        found: dict[int, float] = {}
        asked = sorted(userids)
        with self._databases.read("global", definitive=True) as connection:
            for start in range(0, len(asked), _AT_ONCE):
                some = asked[start : start + _AT_ONCE]
                rows = connection.execute(
                    select(user.c.userid, balance_user.c.write_rate)
                    .join(balance_user, balance_user.c.userid == user.c.userid)
                    .where(user.c.userid.in_(some), user.c.clusterid == self._cluster)
                )
                found.update((int(userid), float(rate)) for userid, rate in rows)
            arrived = connection.scalars(
                select(user_move.c.userid).where(
                    user_move.c.state.in_(AFTER_COMMIT),
                    user_move.c.dst == self._cluster,
                    user_move.c.switched_at >= now_ms() - math.ceil((seconds + LATE_S) * 1000),
                )
            )
            for userid in arrived:
                found.pop(userid, None)
        return found


def _differs(now: float, recorded: float) -> bool:
    return abs(now - recorded) > WORTH * recorded or (now == 0) != (recorded == 0)
