"""Moving users between clusters in SQLite files: how long their writes are held, at any size.

As `mover` measures it on servers.  SQLite has one writer at a time for a whole cluster, and so the
longest write waits for the mover's other transactions there, too.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench._movers import embedded_site
from bench.harness import Comparison
from bench.mover import pause_of

TITLE = "Moving users between SQLite clusters: the pause"
ROUNDS = 3
SIZES = {1_000: 10, 60_000: 2, 200_000: 1}
"""Rows of the user -> moves in a round."""


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Pauses by size."""
    yield pause_of({1_000: 3, 20_000: 1} if quick else SIZES, embedded_site)
