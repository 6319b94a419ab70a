"""Clusters and users for the planner's tests."""

from __future__ import annotations

from collections.abc import Sequence

from lj_services.usercluster.balance.rules import ClusterState
from lj_services.usercluster.balance.snapshot import ClusterFigures, Snapshot, UserTable

UP, DRAINING, FULL, DEAD = ClusterState
User = tuple[int, int, int, float, int]


def cluster(
    number: int,
    used: int,
    total: int = 1000,
    state: ClusterState = UP,
    *,
    weight: float = 100,
    busy: float | None = None,
    embedded: bool = False,
) -> ClusterFigures:
    return ClusterFigures(
        number, total, used, state=state, weight=weight, busy=busy, embedded=embedded
    )


def snapshot(clusters: Sequence[ClusterFigures], users: Sequence[User]) -> Snapshot:
    """Users are (userid, cluster number, bytes, writes a second, flags)."""
    index = {figures.clusterid: i for i, figures in enumerate(clusters)}
    return Snapshot(
        tuple(clusters),
        UserTable.from_rows(
            (userid, index[where], size, max(1, size // 100), rate, flags)
            for userid, where, size, rate, flags in users
        ),
    )


def evenly(number: int, first: int, count: int, size: int) -> list[User]:
    """Users of one size on a cluster."""
    return [(first + i, number, size, 0.0, 0) for i in range(count)]
