"""The balancer's figures for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from lj_services.perlbal.proxy.role import ProxyRole

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer


class BalancerMetrics(Collector):
    """Collects from one balancer; a scrape runs in a thread, so it looks at copies."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer

    def collect(self) -> Iterable[Metric]:
        """The figures as they are now."""
        balancer = self._balancer
        services = list(balancer.services.values())
        requests = CounterMetricFamily("lj_perlbal_requests", "Requests", labels=["service"])
        waiting = GaugeMetricFamily(
            "lj_perlbal_waiting", "Requests that wait for a node", labels=["service", "queue"]
        )
        backends = GaugeMetricFamily(
            "lj_perlbal_backends", "Connections to nodes", labels=["service", "state"]
        )
        for service in services:
            requests.add_metric([service.name], service.requests)
            if isinstance(service.role, ProxyRole):
                for queue, count, _age in service.role.queues.figures(balancer.now):
                    waiting.add_metric([service.name, queue], count)
                states = Counter(backend.state for backend in list(service.role.backends))
                for state, count in states.items():
                    backends.add_metric([service.name, state], count)
        asked = CounterMetricFamily(
            "lj_perlbal_node_requests", "Requests to a node", labels=["node"]
        )
        out = GaugeMetricFamily("lj_perlbal_node_left_out", "1: the node failed", labels=["node"])
        for node in balancer.nodes.tried():
            asked.add_metric([node.name], node.requests)
            out.add_metric([node.name], 0 if node.usable(balancer.now) else 1)
        yield from (requests, waiting, backends, asked, out)
