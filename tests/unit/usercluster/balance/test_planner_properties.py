"""What holds for every plan, whatever the site looks like."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.usercluster.balance.plan import Plan, PlanImpossible, Why
from lj_services.usercluster.balance.planner import make_plan
from lj_services.usercluster.balance.rules import BalanceRules, ClusterState
from lj_services.usercluster.balance.snapshot import (
    MOVING,
    PINNED,
    RECENT,
    ClusterFigures,
    Snapshot,
    UserTable,
)

pytestmark = pytest.mark.unit

STATES = st.sampled_from([ClusterState.UP] * 6 + list(ClusterState))
FLAGS = st.sampled_from([0] * 8 + [PINNED, RECENT, MOVING, PINNED | RECENT])
SIZES = st.one_of(st.integers(0, 100), st.integers(0, 3000), st.sampled_from([1, 5000, 20_000]))


@st.composite
def sites(draw: st.DrawFn) -> Snapshot:
    """Up to 6 clusters of all states with up to 60 users of very different sizes."""
    count = draw(st.integers(1, 6))
    users = draw(
        st.lists(
            st.tuples(
                st.integers(0, count - 1),
                SIZES,
                st.sampled_from([0.0, 0.0, 0.1, 1.0, 30.0]),
                FLAGS,
            ),
            max_size=60,
        )
    )
    stored = [sum(size for where, size, _, _ in users if where == i) for i in range(count)]
    measured = draw(st.booleans())
    clusters = []
    for i in range(count):
        used = stored[i] + draw(st.integers(0, 500))
        clusters.append(
            ClusterFigures(
                clusterid=10 + i,
                disk_total=max(1, int(used * draw(st.floats(1.0, 6.0)))) + 1000,
                disk_used=used,
                state=draw(STATES),
                weight=draw(st.sampled_from([100, 100, 50, 200, 0])),
                busy=draw(st.floats(0, 1)) if measured else None,
                unsurveyed=draw(st.sampled_from([0, 0, 3])),
            )
        )
    rows = [
        (userid, where, size, size // 100, rate, flags)
        for userid, (where, size, rate, flags) in enumerate(users, start=1)
    ]
    return Snapshot(tuple(clusters), UserTable.from_rows(rows))


RULES = st.builds(
    BalanceRules,
    tolerance=st.sampled_from([0.0, 0.05, 0.2]),
    high_water=st.sampled_from([0.8, 0.9]),
    receiver_limit=st.sampled_from([0.6, 0.75]),
    improvement=st.sampled_from([0.0, 0.5, 1.0]),
    max_moves=st.sampled_from([0, 0, 0, 5]),
)


def plan_of(site: Snapshot, rules: BalanceRules) -> Plan | None:
    try:
        return make_plan(site, rules)
    except PlanImpossible:
        return None


@given(sites(), RULES)
def test_every_plan_keeps_the_rules(site: Snapshot, rules: BalanceRules) -> None:
    plan = plan_of(site, rules)
    if plan is None:
        return
    users = site.users
    row = {int(userid): i for i, userid in enumerate(users.userid)}
    figures = {cluster.clusterid: cluster for cluster in site.clusters}
    incoming = dict.fromkeys(figures, 0)
    assert len({move.userid for move in plan.moves}) == len(plan.moves)
    assert not {m.src for m in plan.moves} & {m.dst for m in plan.moves}
    for move in plan.moves:
        at = row[move.userid]
        home = site.clusters[int(users.cluster[at])]
        assert move.src == home.clusterid
        assert move.size == users.size[at]
        assert home.state is not ClusterState.DEAD
        forbidden = PINNED | MOVING
        if home.state is not ClusterState.DRAINING:
            forbidden |= RECENT
        assert not users.flags[at] & forbidden
        assert (move.why is Why.DRAIN) == (home.state is ClusterState.DRAINING)
        to = figures[move.dst]
        assert to.state is ClusterState.UP
        assert to.weight > 0
        incoming[move.dst] += move.size
    for number, size in incoming.items():
        if size:
            cluster = figures[number]
            needed = cluster.disk_used + rules.overhead * size
            assert needed <= rules.receiver_limit * cluster.disk_total + 1e-6


@given(sites(), RULES)
def test_no_move_makes_the_worst_cluster_worse(site: Snapshot, rules: BalanceRules) -> None:
    plan = plan_of(site, rules)
    if plan is None:
        return
    target = {f.clusterid: f for f in plan.forecast}
    users = site.users
    rate_of = dict(zip(users.userid.tolist(), users.write_rate.tolist(), strict=True))
    disk = {f.clusterid: f.disk_before for f in plan.forecast}
    rate = {
        c.clusterid: float(users.write_rate[users.cluster == i].sum(dtype=float))
        for i, c in enumerate(site.clusters)
    }
    to_drain = {
        c.clusterid: int(((users.cluster == i) & (users.flags & (PINNED | MOVING) == 0)).sum())
        for i, c in enumerate(site.clusters)
        if c.state is ClusterState.DRAINING
    }

    # What a cluster bears in writes does not change; take it before anything has moved.
    bears = {n: rate[n] / f.busy_before for n, f in target.items() if f.busy_before}

    def rate_score(number: int) -> float:
        forecast = target[number]
        if not forecast.busy_target or number not in bears:
            return 0.0
        return rate[number] / bears[number] / forecast.busy_target

    def disk_score(number: int) -> float:
        return disk[number] / max(target[number].disk_target, 1e-9)

    def worst_score() -> float:
        if any(to_drain.values()):
            return math.inf
        stay = [
            n
            for n, f in target.items()
            if f.state not in (ClusterState.DEAD, ClusterState.DRAINING)
        ]
        return max((max(disk_score(n), rate_score(n)) for n in stay), default=0.0)

    course = [worst_score()]
    for move in plan.moves:
        disk[move.src] -= move.size
        disk[move.dst] += move.size
        rate[move.src] -= rate_of[move.userid]
        rate[move.dst] += rate_of[move.userid]
        if move.src in to_drain:
            to_drain[move.src] -= 1
        course.append(worst_score())
    for before, after in pairwise(course):
        assert after <= before * (1 + 1e-6) or (math.isinf(before))
    assert {n: f.disk_after for n, f in target.items()} == disk


@given(sites(), RULES)
def test_the_same_answer_every_time(site: Snapshot, rules: BalanceRules) -> None:
    plan = plan_of(site, rules)
    assert plan == plan_of(site, rules)
    # Nor does the order matter in which the users were read.
    turned = UserTable(*(column[::-1] for column in vars(site.users).values()))
    other = plan_of(Snapshot(site.clusters, turned), rules)
    assert (plan is None) == (other is None)
    if plan is not None and other is not None:
        assert plan.moves == other.moves


@given(sites(), RULES)
def test_what_is_not_reached_is_said(site: Snapshot, rules: BalanceRules) -> None:
    plan = plan_of(site, rules)
    if plan is None:
        return
    moved = {move.userid for move in plan.moves}
    told = " ".join(plan.problems)
    for i, cluster in enumerate(site.clusters):
        forecast = plan.forecast[i]
        left = {int(u) for u in site.users.userid[site.users.cluster == i]} - moved
        if cluster.state is ClusterState.DRAINING:
            if left or cluster.unsurveyed:
                assert f"cluster {cluster.clusterid} will not be empty" in told
        elif cluster.state is not ClusterState.DEAD and forecast.disk_after > forecast.disk_target:
            assert f"cluster {cluster.clusterid} stays" in told
    if not plan.problems:
        assert all(
            f.disk_after <= f.disk_target for f in plan.forecast if f.state is not ClusterState.DEAD
        )


@given(sites(), RULES)
def test_a_plan_that_reaches_its_targets_moves_no_less_than_the_bound(
    site: Snapshot, rules: BalanceRules
) -> None:
    plan = plan_of(site, rules)
    if plan is not None and not plan.problems:
        assert plan.bytes >= plan.least_bytes
        assert plan.spread_after >= plan.best_spread * (1 - 1e-9)


@given(st.integers(2, 6), st.lists(st.integers(1, 50), min_size=200, max_size=400), st.data())
def test_small_users_are_spread_within_the_tolerance_for_hardly_more_than_the_bound(
    count: int, sizes: list[int], data: st.DataObject
) -> None:
    """No user is larger than a fraction of the tolerance: then nothing stands in the way."""
    first = data.draw(st.integers(0, len(sizes)))
    homes = [0 if i < first else i % count for i in range(len(sizes))]
    stored = [
        sum(s for s, home in zip(sizes, homes, strict=True) if home == i) for i in range(count)
    ]
    scale = 100  # bytes that are no user's: they keep users small beside the level
    total = 4 * (sum(sizes) + scale * 50)
    clusters = tuple(
        ClusterFigures(i + 1, total, used + scale * 50) for i, used in enumerate(stored)
    )
    rows = [
        (i + 1, home, size, 1, 0.0, 0)
        for i, (home, size) in enumerate(zip(homes, sizes, strict=True))
    ]
    plan = make_plan(Snapshot(clusters, UserTable.from_rows(rows)), BalanceRules())
    assert plan.problems == ()
    assert plan.spread_after <= 1.05 * plan.best_spread + 1e-9
    assert plan.bytes <= max(1.2 * plan.least_bytes, plan.least_bytes + 50)


def test_equal_writers_leave_in_the_order_of_their_numbers() -> None:
    """However they were read: a tie is broken by userid, not by the place in the table."""
    clusters = tuple(
        ClusterFigures(
            clusterid=number,
            disk_total=1001,
            disk_used=0,
            state=ClusterState.UP,
            weight=100,
            busy=busy,
            write_rate=None,
            unsurveyed=0,
            embedded=False,
        )
        for number, busy in ((10, 0.9), (11, 0.1))
    )
    columns = {
        "userid": np.arange(1, 8),
        "cluster": np.array([0] * 6 + [1], dtype=np.int16),
        "size": np.zeros(7, dtype=np.int64),
        "rows": np.zeros(7, dtype=np.uint32),
        "write_rate": np.array([0, 0, 0.1, 0.1, 0.1, 0.1, 0.1], dtype=np.float32),
        "flags": np.zeros(7, dtype=np.uint8),
    }
    for step in (1, -1):
        users = UserTable(**{name: column[::step] for name, column in columns.items()})
        plan = make_plan(Snapshot(clusters, users), BalanceRules(busy_target=0.6, improvement=0.0))
        assert [move.userid for move in plan.moves] == [3, 4]
