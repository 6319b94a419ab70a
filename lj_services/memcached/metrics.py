"""Prometheus figures of the embedded server, read when they are asked for.

The server counts for ``stats`` anyway; a scrape turns those counts into
metrics, so that requests pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from lj_services.memcached.items import Items
from lj_services.memcached.statistics import Counters


class ServerMetrics(Collector):
    """Collects from one server's items and counters."""

    def __init__(self, items: Items, counters: Counters) -> None:
        self._items = items
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        """The figures as they are now."""
        items = self._items
        counters = self._counters
        yield _gauge("items", "Items in the cache", len(items))
        yield _gauge("bytes", "Bytes that items take, all counted", items.used)
        yield _gauge("limit_bytes", "Bytes that items may take", items.limit)
        yield _counter("evictions", "Items evicted to make room", items.evictions)
        yield _counter("reclaimed", "Items removed because they expired", items.reclaimed)
        yield _counter("read_bytes", "Bytes received from clients", counters.bytes_read)
        yield _counter("written_bytes", "Bytes sent to clients", counters.bytes_written)
        commands = CounterMetricFamily(
            "lj_memcached_commands", "Keys asked for or changed", labels=["command", "result"]
        )
        misses = counters.cmd_get - counters.get_hits
        commands.add_metric(["get", "hit"], counters.get_hits)
        commands.add_metric(["get", "miss"], misses)
        commands.add_metric(["set", ""], counters.cmd_set)
        commands.add_metric(["touch", "hit"], counters.touch_hits)
        commands.add_metric(["touch", "miss"], counters.cmd_touch - counters.touch_hits)
        commands.add_metric(["delete", "hit"], counters.delete_hits)
        commands.add_metric(["delete", "miss"], counters.delete_misses)
        commands.add_metric(["incr", "hit"], counters.incr_hits)
        commands.add_metric(["incr", "miss"], counters.incr_misses)
        commands.add_metric(["decr", "hit"], counters.decr_hits)
        commands.add_metric(["decr", "miss"], counters.decr_misses)
        commands.add_metric(["flush", ""], counters.cmd_flush)
        yield commands


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"lj_memcached_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"lj_memcached_{name}", text, value=value)
