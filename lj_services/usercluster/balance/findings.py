"""What a plan can't do, in words: why, and what would help."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lj_services.usercluster.balance import targets
from lj_services.usercluster.balance.rules import BalanceRules, ClusterState
from lj_services.usercluster.balance.sides import SLACK, Books
from lj_services.usercluster.balance.snapshot import MOVING, PINNED, RECENT, Snapshot


def no_room(snapshot: Snapshot, rules: BalanceRules, free: NDArray[np.bool_]) -> str:
    """Why the bytes that must leave fit nowhere."""
    size = targets.per_cluster(snapshot, snapshot.users.size, free)
    must, room = 0, 0
    wanted = []
    for i, cluster in enumerate(snapshot.clusters):
        over = cluster.disk_used - int(rules.high_water * cluster.disk_total)
        if cluster.state is ClusterState.DEAD:
            continue
        if cluster.state is ClusterState.DRAINING:
            must += int(size[i])
            wanted.append(f"cluster {cluster.clusterid} is to be emptied of {int(size[i])} bytes")
        elif over > 0:
            must += min(over, int(size[i]))
            wanted.append(f"cluster {cluster.clusterid} is {over} bytes above high_water")
        elif cluster.receives:
            left = rules.receiver_limit * cluster.disk_total - cluster.disk_used
            room += int(max(0.0, left) / rules.overhead)
    missing = math.ceil(max(0, must - room) * rules.overhead / rules.receiver_limit)
    return (
        f"no room: {must} bytes must leave ({'; '.join(wanted)}), and the clusters that are up "
        f"can take {room} under receiver_limit = {rules.receiver_limit:g} with overhead = "
        f"{rules.overhead:g}; {missing} bytes more of disk on clusters that are up would do, or "
        "state up and a weight for a cluster that takes none now, or one drain less"
    )


def what_is_left(
    snapshot: Snapshot, free: NDArray[np.bool_], clusters: Sequence[Books]
) -> Iterator[str]:
    """A sentence for every cluster that the plan does not bring to where it should be."""
    for books, figures in zip(clusters, snapshot.clusters, strict=True):
        if figures.state is ClusterState.DEAD:
            continue
        if books.draining:
            if reasons := _not_empty(snapshot, free, books, figures.unsurveyed):
                yield f"cluster {books.clusterid} will not be empty: {', '.join(reasons)}"
            continue
        if (over := books.over_disk()) > 0:
            why = _over_target(snapshot, free, books)
            yield f"cluster {books.clusterid} stays {over} bytes over its disk target: {why}"
        if (excess := books.over_rate()) > SLACK * books.rate:
            why = _over_target(snapshot, free, books)
            yield f"cluster {books.clusterid} stays {excess:.1f} writes/s over its target: {why}"


def _not_empty(
    snapshot: Snapshot, free: NDArray[np.bool_], books: Books, unsurveyed: int
) -> list[str]:
    users = snapshot.users
    here = np.flatnonzero((users.cluster == books.index) & ~free)
    reasons = []
    for what, flag in (("pinned", PINNED), ("being moved already", MOVING)):
        named = users.userid[here[users.flags[here] & flag > 0]]
        if len(named):
            some = ", ".join(map(str, np.sort(named)[:5])) + ", ..." * (len(named) > 5)
            reasons.append(f"{len(named)} {what} (userid {some})")
    if unsurveyed:
        reasons.append(f"{unsurveyed} not surveyed yet (run lj balance survey)")
    if books.to_drain:
        reasons.append(
            f"{books.to_drain} for whom no receiver has room in one piece, or whom max_moves or "
            "max_bytes leaves for the next plan"
        )
    return reasons


def _over_target(snapshot: Snapshot, free: NDArray[np.bool_], books: Books) -> str:
    if books.users_in:
        return "it took users of a draining cluster for whom there was no better room"
    users = snapshot.users
    fixed = (users.cluster == books.index) & ~free
    count, recent = int(fixed.sum()), int((users.flags[fixed] & RECENT > 0).sum())
    held = (
        f"{count} of its users may not leave ({recent} in their cool-down), and " if count else ""
    )
    return (
        f"{held}no user who may leave fits a receiver and improves the worse of the two enough; "
        "a further cluster, a larger tolerance or a smaller improvement would help"
    )
