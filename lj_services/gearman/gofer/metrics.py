"""What a gofer tells Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

CALLS = Counter(
    "lj_gofer_calls_total", "calls that were done", ["role", "do", "outcome"]
)  # outcome: done, or the error's name
SECONDS = Histogram("lj_gofer_call_seconds", "seconds that a call took", ["role", "do"])
LEASES = Gauge("lj_gofer_leases", "transactions that are held for callers", ["role"])
EXPIRED = Counter("lj_gofer_leases_expired_total", "leases that ran out", ["role"])
