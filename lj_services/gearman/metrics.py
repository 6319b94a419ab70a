"""Prometheus figures of the server, by function, read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from lj_services.gearman.jobs import Priority
from lj_services.gearman.queues import Queues

COUNTERS = {
    "submitted": "Jobs submitted, those that joined another one included",
    "coalesced": "Submissions that joined a job that was there already",
    "refused": "Submissions refused because the queue was full",
    "completed": "Jobs completed",
    "failed": "Jobs failed, timed out or cancelled",
    "dropped": "Jobs dropped because nobody waited for them any more",
    "requeued": "Jobs given to another worker because theirs was lost",
    "timed_out": "Jobs that took longer than their worker allows",
}


class ServerMetrics(Collector):
    """Collects from one server's queues.

    Args:
        queues: the server's state.
        cut_off: gives how many slow readers were cut off.
    """

    def __init__(self, queues: Queues, cut_off: Callable[[], int]) -> None:
        self._queues = queues
        self._cut_off = cut_off

    def collect(self) -> Iterable[Metric]:
        """The figures as they are now."""
        # A scrape runs in a thread of its own: it looks at a copy of the table.
        functions = [
            (f.name.decode(errors="replace"), f) for f in list(self._queues.functions.values())
        ]
        queued = GaugeMetricFamily(
            "lj_gearman_queued", "Jobs that no worker has", labels=["function", "priority"]
        )
        running = GaugeMetricFamily("lj_gearman_running", "Jobs being done", labels=["function"])
        workers = GaugeMetricFamily(
            "lj_gearman_workers", "Workers that can do the function", labels=["function"]
        )
        waited = SummaryMetricFamily(
            "lj_gearman_waited_seconds", "From submission to a worker", labels=["function"]
        )
        ran = SummaryMetricFamily(
            "lj_gearman_ran_seconds", "From a worker to the end", labels=["function"]
        )
        for name, function in functions:
            for priority in Priority:
                queued.add_metric([name, priority.name.lower()], function.ready_of(priority))
            queued.add_metric([name, "scheduled"], len(function.scheduled))
            running.add_metric([name], len(function.running))
            workers.add_metric([name], len(function.workers))
            waited.add_metric([name], function.started, function.waited_s)
            ran.add_metric([name], function.ended, function.ran_s)
        yield from (queued, running, workers, waited, ran)
        for counter, text in COUNTERS.items():
            family = CounterMetricFamily(f"lj_gearman_{counter}", text, labels=["function"])
            for name, function in functions:
                family.add_metric([name], getattr(function, counter))
            yield family
        yield GaugeMetricFamily(
            "lj_gearman_data_bytes", "Bytes of all jobs' data", self._queues.data_bytes
        )
        yield CounterMetricFamily(
            "lj_gearman_cut_off", "Slow readers that were cut off", self._cut_off()
        )
