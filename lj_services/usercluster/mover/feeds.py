"""The feeds of a worker, one for each source: shared by all of its moves from there.

A source on SQLite has none; there each move has triggers of its own (`noting`).
"""

from __future__ import annotations

import logging
import threading

from sqlalchemy.exc import DBAPIError

from lj_services.database import DatabaseError, Databases, cluster_role
from lj_services.usercluster.mover import noting
from lj_services.usercluster.mover.binlog import Place, here, still_there
from lj_services.usercluster.mover.config import MoverSettings
from lj_services.usercluster.mover.feed import Feed
from lj_services.usercluster.mover.rates import WriteRates
from lj_services.usercluster.mover.subscription import DirtyKeys
from lj_services.usercluster.mover.work import Work

log = logging.getLogger(__name__)


class Feeds:
    """What a worker reads of the sources' binary logs; thread-safe.

    Args:
        databases: the site's.
        settings: the ``[mover]`` table of the site file.
    """

    def __init__(self, databases: Databases, settings: MoverSettings) -> None:
        self._databases = databases
        self._settings = settings
        self._feeds: dict[int, Feed] = {}
        self._rates: dict[int, WriteRates] = {}
        self._lock = threading.Lock()

    def opened(self) -> dict[int, Feed]:
        """The feeds that were opened, by the cluster that they read."""
        with self._lock:
            return dict(self._feeds)

    def close(self) -> None:
        """End them all."""
        for feed in self.opened().values():
            feed.close()

    def subscribe(self, work: Work) -> tuple[DirtyKeys, Place]:
        """Begin to note the keys of a move's user, from now on; where that is in the log.

        Raises:
            DatabaseError: the source can't be reached.
        """
        if self._databases.writer(work.src).is_sqlite:
            return noting.begin(work)
        feed = self._of(work.move.src)
        claim = (work.move.move_id, work.move.claim)
        joined = feed.join(work.move.userid, work.found, claim)
        if joined is not None:
            return joined
        with work.reading(work.src) as connection:
            start = here(connection)
        return feed.subscribe(work.move.userid, work.found, start, claim), start

    def resume(self, work: Work, start: Place) -> DirtyKeys | None:
        """The same from where an earlier worker was; None: what it read is gone."""
        if self._databases.writer(work.src).is_sqlite:
            return noting.resume(work, start)
        with work.reading(work.src) as connection:
            if not still_there(connection, start):
                return None
            end = here(connection)
        claim = (work.move.move_id, work.move.claim)
        return self._of(work.move.src).subscribe(work.move.userid, work.found, start, claim, end)

    def _of(self, cluster: int) -> Feed:
        with self._lock:
            if cluster not in self._feeds:
                server = self._databases.writer(cluster_role(cluster))
                self._feeds[cluster] = Feed(server, self._settings.feed_linger_s)
            return self._feeds[cluster]

    def record_rates(self) -> None:
        """Record how much users write, of each cluster that was watched for long enough."""
        every_s = self._settings.write_rates_s
        for cluster, feed in self.opened().items():
            if every_s == 0 or feed.watched_s < every_s:
                continue
            rates = self._rates.setdefault(cluster, WriteRates(self._databases, cluster))
            try:
                rates.learn(*feed.take_writes())
            except (DatabaseError, DBAPIError) as error:
                log.warning("cluster %s: write rates could not be recorded: %s", cluster, error)
