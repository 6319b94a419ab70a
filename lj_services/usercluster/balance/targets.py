"""How much each cluster should have: the fair level, the targets, the least that must move.

Load is poured like water into vessels that are joined.  A cluster's vessel is as wide
as its *capacity* (disk size times weight; for writes, the writes that its disk bears),
has a floor, `low`, made of what can't leave (pinned users, files that are no user's),
and a lid, `high` (high water, the receivers' headroom, ``full``: no higher than now).
The level at which all load fits is the lowest that the worst cluster could have if
users could be cut to measure: no plan can do better.  With no level high enough there
is no room, and no plan.

A cluster's *target* is a little above that level (the tolerance).  To bring every
cluster under its target, each must lose at least what it has above: the sum is the
lower bound of the bytes that any plan moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lj_services.usercluster.balance.rules import BalanceRules, ClusterState
from lj_services.usercluster.balance.snapshot import MOVING, PINNED, RECENT, Snapshot

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Dimension:
    """One kind of load (disk bytes, writes a second) over all clusters, a value for each.

    Attributes:
        capacity: what a cluster bears; load over capacity is its level.
        load: what it has.
        low: what it keeps in any case.
        high: what it may have at most after a plan.
        target: what it should have at most.
        fair: the level at which everything fits.
        best: the lowest level that the worst cluster can possibly have.
    """

    capacity: Floats
    load: Floats
    low: Floats
    high: Floats
    target: Floats
    fair: float
    best: float

    @property
    def levels(self) -> Floats:
        """Load over capacity."""
        return self.load / self.capacity


def movable(snapshot: Snapshot) -> NDArray[np.bool_]:
    """Which users a plan may move: who comes from a draining cluster needs no cool-down."""
    draining = np.array([c.state is ClusterState.DRAINING for c in snapshot.clusters], bool)
    dead = np.array([c.state is ClusterState.DEAD for c in snapshot.clusters], bool)
    forbidden = np.where(draining, PINNED | MOVING, PINNED | MOVING | RECENT).astype(np.uint8)
    users = snapshot.users
    free: NDArray[np.bool_] = (users.flags & forbidden[users.cluster]) == 0
    free &= ~dead[users.cluster]
    return free


def per_cluster(snapshot: Snapshot, values: NDArray[np.number], mask: NDArray[np.bool_]) -> Floats:
    """Sums of a user column by cluster, of the users in `mask`."""
    return np.bincount(
        snapshot.users.cluster[mask], weights=values[mask], minlength=len(snapshot.clusters)
    ).astype(np.float64)


def water_level(capacity: Floats, low: Floats, high: Floats, total: float) -> float | None:
    """The least L at which ``sum(clip(L * capacity, low, high))`` reaches `total`.

    Returns:
        None when even the lids don't hold it.
    """
    if float(np.sum(high)) < total * (1 - 1e-12):
        return None
    lower, upper = 0.0, 1.0

    def held(level: float) -> float:
        return float(np.sum(np.clip(level * capacity, low, high)))

    if held(lower) >= total:
        return lower
    while held(upper) < total and upper < 1e30:
        upper *= 2
    for _ in range(200):
        middle = (lower + upper) / 2
        if not lower < middle < upper:
            break
        if held(middle) < total:
            lower = middle
        else:
            upper = middle
    return upper


def disk(snapshot: Snapshot, rules: BalanceRules, free: NDArray[np.bool_]) -> Dimension | None:
    """Targets for disk space, in bytes; None when the bytes don't fit under the lids."""
    clusters = snapshot.clusters
    everyone = np.ones(len(free), bool)
    ours = per_cluster(snapshot, snapshot.users.size, everyone)
    # Users can't take more than the disk has in use: if sizes say so, they are the newer ones.
    load = np.maximum(np.array([c.disk_used for c in clusters], float), ours)
    low = load - per_cluster(snapshot, snapshot.users.size, free)
    total = np.array([c.disk_total for c in clusters], float)
    weights = [c.weight for c in clusters if c.weight]
    usual = sum(weights) / len(weights) if weights else 100.0
    weight = np.array([c.weight or usual for c in clusters], float)
    room = np.maximum(0, rules.receiver_limit * total - load) / rules.overhead
    high = np.minimum(rules.high_water * total, load + room)
    return _dimension(snapshot, total * weight / 100, load, low, high, rules.tolerance)


def writes(snapshot: Snapshot, rules: BalanceRules, free: NDArray[np.bool_]) -> Dimension | None:
    """Targets for disk I/O, in writes a second; None without busy figures, or receivers.

    What a disk bears is inferred: its writes a second over the share of the time that
    they keep it busy; a cluster that nobody measured bears as much as the average.
    """
    clusters = snapshot.clusters
    users = snapshot.users
    ours = per_cluster(snapshot, users.write_rate, np.ones(len(free), bool))
    load = np.maximum(ours, np.array([c.write_rate or 0.0 for c in clusters]))
    busy = np.array([c.busy or 0.0 for c in clusters])
    known = (busy >= 0.01) & (load > 0)
    if not known.any():
        return None
    bears = np.divide(load, busy, out=np.zeros_like(load), where=known)
    capacity = np.where(known, bears, bears[known].mean())
    low = load - per_cluster(snapshot, users.write_rate, free)
    high = np.full(len(clusters), np.inf)
    found = _dimension(snapshot, capacity, load, low, high, rules.busy_tolerance)
    if found is None:
        return None
    idle = np.array([c.state is not ClusterState.DRAINING for c in clusters])
    target = np.where(idle, np.maximum(found.target, rules.busy_target * capacity), found.target)
    return Dimension(capacity, load, low, found.high, target, found.fair, found.best)


def _dimension(
    snapshot: Snapshot,
    capacity: Floats,
    load: Floats,
    low: Floats,
    high: Floats,
    tolerance: float,
) -> Dimension | None:
    low = np.maximum(low, 0)
    high = high.copy()
    for i, cluster in enumerate(snapshot.clusters):
        if cluster.state is ClusterState.DEAD:
            low[i] = high[i] = load[i]
        elif cluster.state is ClusterState.DRAINING:
            high[i] = low[i]
        elif not cluster.receives:
            high[i] = min(high[i], load[i])
    high = np.maximum(high, low)
    fair = water_level(capacity, low, high, float(np.sum(load)))
    if fair is None:
        return None
    stays = np.array([c.state in (ClusterState.UP, ClusterState.FULL) for c in snapshot.clusters])
    best = max(fair, float(np.max(low[stays] / capacity[stays], initial=0.0)))
    target = np.clip((1 + tolerance) * np.maximum(fair * capacity, low), low, high)
    return Dimension(capacity, load, low, high, target, fair, best)


def giants(
    snapshot: Snapshot, free: NDArray[np.bool_], disk: Dimension, writes: Dimension | None
) -> NDArray[np.intp]:
    """Users who may leave, and have more bytes or writes than any receiver has room for.

    A receiver gives nobody away in the same plan, so its room now is all it will have.
    Those of draining clusters are left out: for them there is the headroom.
    """
    users = snapshot.users
    receives = np.array([c.receives for c in snapshot.clusters])
    draining = np.array([c.state is ClusterState.DRAINING for c in snapshot.clusters])
    too_large = users.size > np.max((disk.target - disk.load)[receives], initial=0.0)
    if writes is not None:
        room = np.max((writes.target - writes.load)[receives], initial=0.0)
        too_large |= users.write_rate > room
    found = np.flatnonzero(too_large & free)
    here: NDArray[np.bool_] = ~draining[users.cluster[found]]
    return found[here]


def giants_level(snapshot: Snapshot, users: NDArray[np.intp], disk: Dimension) -> float:
    """The level that the largest of these users gives a cluster, wherever they are put."""
    receives = np.array([c.receives for c in snapshot.clusters])
    level = 0.0
    largest = users[np.argsort(-snapshot.users.size[users], kind="stable")[:100]]
    for user in largest.tolist():
        places = receives.copy()
        places[snapshot.users.cluster[user]] = True
        alone = (disk.low + float(snapshot.users.size[user])) / disk.capacity
        level = max(level, float(np.min(alone[places])))
    return level


def least_bytes_for_writes(
    size: NDArray[np.int64], rate: NDArray[np.float32], excess: float
) -> float:
    """The fewest bytes of users that together make `excess` writes a second, users cut to measure.

    Args:
        size: bytes of each user who may leave.
        rate: writes a second of each.
        excess: writes a second that must leave.
    """
    order = np.argsort(size / np.maximum(rate, 1e-30), kind="stable")
    rates = np.cumsum(rate[order], dtype=np.float64)
    sizes = np.cumsum(size[order], dtype=np.float64)
    last = int(np.searchsorted(rates, excess))
    if last >= len(order):
        return float(sizes[-1]) if len(sizes) else 0.0
    before = float(rates[last - 1]) if last else 0.0
    part = (excess - before) / float(rate[order[last]])
    return (float(sizes[last - 1]) if last else 0.0) + part * float(size[order[last]])
