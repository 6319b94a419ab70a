"""The workers' figures for Prometheus, each with the label ``worker``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

REGISTRY: Final = CollectorRegistry()
"""What the master shows; its own process's figures are not there, as nobody is served by it."""


class WorkersMetrics(Collector):
    """Asks all workers at each scrape.

    Args:
        texts: returns each worker's figures as text, by worker; may wait.
    """

    def __init__(self, texts: Callable[[], Mapping[int, str]]) -> None:
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        """The figures as they are now."""
        families: dict[str, Metric] = {}
        for number, text in self._texts().items():
            for family in text_string_to_metric_families(text):
                kept = families.setdefault(family.name, family)
                samples = [
                    sample._replace(labels={**sample.labels, "worker": str(number)})
                    for sample in family.samples
                ]
                kept.samples = samples if kept is family else kept.samples + samples
        return families.values()
