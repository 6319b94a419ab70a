"""A large site: near the lower bound of bytes, near the best spread, in both dimensions."""

from __future__ import annotations

import numpy as np
import pytest

from lj_services.usercluster.balance.plan import Why
from lj_services.usercluster.balance.planner import make_plan
from lj_services.usercluster.balance.rules import BalanceRules, ClusterState
from lj_services.usercluster.balance.snapshot import ClusterFigures, Snapshot, UserTable

pytestmark = pytest.mark.unit

USERS, CLUSTERS = 200_000, 20


def power_law_site(seed: int, draining: int) -> Snapshot:
    """Sizes and writes by power laws, cut off where a user is 2 % of a cluster."""
    random = np.random.default_rng(seed)
    share = random.lognormal(0, 0.35, CLUSTERS)
    cluster = random.choice(CLUSTERS, size=USERS, p=share / share.sum()).astype(np.int16)
    size = np.minimum(20e3 * (1 + random.pareto(1.2, USERS)), 20e6).astype(np.int64)
    rate = np.minimum(1e-5 * (1 + random.pareto(1.3, USERS)), 5e-3).astype(np.float32)
    stored = np.bincount(cluster, weights=size)
    written = np.bincount(cluster, weights=rate)
    figures = tuple(
        ClusterFigures(
            clusterid=i + 1,
            disk_total=int(stored.mean() / 0.4),
            disk_used=int(stored[i]),
            busy=float(0.5 * written[i] / written.mean()),
            state=ClusterState.DRAINING if i < draining else ClusterState.UP,
        )
        for i in range(CLUSTERS)
    )
    rows = (size // 400 + 1).astype(np.uint32)
    flags = np.zeros(USERS, np.uint8)
    return Snapshot(figures, UserTable(np.arange(1, USERS + 1), cluster, size, rows, rate, flags))


@pytest.mark.parametrize("draining", [0, 2])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_large_site(seed: int, draining: int) -> None:
    plan = make_plan(power_law_site(seed, draining), BalanceRules())
    assert plan.problems == ()
    assert plan.least_bytes <= plan.bytes <= 1.2 * plan.least_bytes
    assert plan.spread_after <= 1.05 * plan.best_spread * (1 + 1e-9)
    assert {Why.DISK, Why.WRITES} <= {move.why for move in plan.moves}
    assert all(f.score_after <= 1 + 1e-6 for f in plan.forecast)
    assert max(f.busy_before or 0 for f in plan.forecast) > 0.6
    for f in plan.forecast:
        assert (f.busy_after or 0) <= (f.busy_target or 0) * (1 + 1e-6)
