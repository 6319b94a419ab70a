"""A worker's figures for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lj_services.usercluster.mover.feed import Feed

PHASES = Counter("lj_mover_worker_phases", "States that moves have entered here", ["state"])
RUNS = Counter("lj_mover_worker_runs", "Claims of moves that have ended here", ["result"])
RUNNING = Gauge("lj_mover_worker_running", "Moves under way here")
ROWS = Counter("lj_mover_worker_copied_rows", "Rows copied to destinations")
BYTES = Counter("lj_mover_worker_copied_bytes", "Bytes of the rows copied to destinations")
KEYS = Counter("lj_mover_worker_followed_keys", "Changed keys brought over after the copy")
PURGED = Counter("lj_mover_worker_purged_rows", "Rows deleted at earlier homes")
LEASES_LOST = Counter("lj_mover_worker_leases_lost", "Moves that another worker took away")
PAUSE = Histogram(
    "lj_mover_worker_pause_seconds",
    "How long a user's writes were held, by whether the cut-over came about",
    ["result"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0),
)


class FeedMetrics(Collector):
    """How far a worker's moves are behind the sources' binary logs.

    Args:
        feeds: the feeds by cluster; called with each scrape.
    """

    def __init__(self, feeds: Callable[[], Mapping[int, Feed]]) -> None:
        self._feeds = feeds

    def collect(self) -> Iterator[GaugeMetricFamily]:
        behind = GaugeMetricFamily(
            "lj_mover_worker_behind_keys", "Changed keys that wait, of all moves", labels=["src"]
        )
        lag = GaugeMetricFamily(
            "lj_mover_worker_feed_lag_seconds",
            "Age of the newest change that was read of a source's binary log; 0: at its end",
            labels=["src"],
        )
        for cluster, feed in sorted(self._feeds().items()):
            behind.add_metric([str(cluster)], feed.behind)
            lag.add_metric([str(cluster)], feed.lag_s)
        yield behind
        yield lag
