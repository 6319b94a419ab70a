"""The figures that database connections give to Prometheus."""

from prometheus_client import Counter, Gauge

POOL_IN_USE = Gauge("lj_database_pool_in_use", "connections in use now", ("role", "server", "mode"))
POOL_EXHAUSTED = Counter(
    "lj_database_pool_exhausted_total",
    "times that a full pool made someone wait in vain",
    ("role", "server", "mode"),
)
READER_UP = Gauge(
    "lj_database_reader_up", "1: takes reads; 0: left out (dead or behind)", ("role", "server")
)
READER_LAG = Gauge(
    "lj_database_reader_lag_seconds",
    "how far a reader is behind; -1: unknown or replication stopped",
    ("role", "server"),
)
READS = Counter("lj_database_reads_total", "reads by where they went", ("role", "server"))
