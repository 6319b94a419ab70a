"""The coordinator's figures for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import Counter, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lj_services.usercluster.coordinator.jobs import SIDES
from lj_services.usercluster.coordinator.scheduling import Schedule

GRANTED = Counter("lj_mover_granted", "Moves given to workers", ["kind"])
FINISHED = Counter("lj_mover_finished", "Moves that workers gave back, by their state", ["state"])
FREED = Counter("lj_mover_freed", "Users freed whose worker had fallen silent under the freeze")
RULING = Gauge("lj_mover_ruling", "1: this coordinator holds the lock and reaches global")


class ScheduleMetrics(Collector):
    """What waits and runs now.

    Args:
        schedule: looked at with each scrape.
        clusters: the numbers of all clusters.
    """

    def __init__(self, schedule: Schedule, clusters: Callable[[], list[int]]) -> None:
        self._schedule = schedule
        self._clusters = clusters

    def collect(self) -> Iterator[GaugeMetricFamily]:
        waiting = GaugeMetricFamily(
            "lj_mover_waiting", "Moves that wait and are due", labels=["src", "kind"]
        )
        for (src, kind), count in list(self._schedule.waiting().items()):
            waiting.add_metric([str(src), str(kind)], count)
        yield waiting
        running = GaugeMetricFamily(
            "lj_mover_running", "Moves that run", labels=["side", "cluster"]
        )
        for cluster in self._clusters():
            for side in SIDES:
                running.add_metric([side, str(cluster)], self._schedule.running_on(side, cluster))
        yield running
        places = GaugeMetricFamily("lj_mover_places", "Moves at once that all workers take")
        places.add_metric([], sum(self._schedule.slots.copy().values()))
        yield places
        busy = GaugeMetricFamily(
            "lj_mover_disk_busy", "Share of the time that the busiest disk is", labels=["cluster"]
        )
        lag = GaugeMetricFamily(
            "lj_mover_replica_lag_seconds",
            "How far the worst replica is behind",
            labels=["cluster"],
        )
        for cluster, condition in list(self._schedule.conditions.items()):
            if condition.busy is not None:
                busy.add_metric([str(cluster)], condition.busy)
            if condition.lag_s is not None:
                lag.add_metric([str(cluster)], condition.lag_s)
        yield busy
        yield lag
