"""From a snapshot and the rules to a plan: a pure function, the same answer every time.

Rules.

1. Only users who may leave are moved: not pinned, not moving, not moved within the
   cool-down (which draining overrides), not from a dead cluster; each at most once.
2. Only clusters that are ``up`` with a weight, and that nobody has to leave, receive; a
   receiver stays within its disk target and its writes target, so no move makes the
   worst cluster of the site worse.  For users of a draining cluster who fit nowhere
   under the targets, a receiver goes up to its headroom, never above.  A user too large
   for the room of every receiver stays, and their cluster's targets are built around them.
3. Headroom: what comes needs ``overhead`` times its bytes, and what leaves a cluster
   is not counted as free space (a database does not give it back at once).
4. The worst cluster gives first; it gives to the receiver with the lowest score.

Which users.  For *disk*: the largest who still fits into what must leave, and so on
down, which meets the excess to within the size of a small user, with few moves; quiet users
before busy ones, for they are moved with less catching up.  When every user left is
larger than what must still leave, the smallest of them.  For *writes*: the users with the
most writes per byte, hot and small, which is the fewest bytes for a given relief; the
last one is the smallest whose writes suffice.  For a *drain*: all, the largest first,
while there is room in large pieces.

Why it is near the lower bound of `targets`: a cluster stops giving as soon as it is under
its target, so it gives its excess and at most one user more.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lj_services.usercluster.balance import targets
from lj_services.usercluster.balance.findings import no_room, what_is_left
from lj_services.usercluster.balance.plan import Forecast, Move, Plan, PlanImpossible, Why
from lj_services.usercluster.balance.rules import BalanceRules, ClusterState
from lj_services.usercluster.balance.sides import SLACK, Books, Donor, ratio
from lj_services.usercluster.balance.snapshot import Snapshot


def make_plan(snapshot: Snapshot, rules: BalanceRules) -> Plan:
    """Plan the fewest bytes moved that bring every cluster under its targets.

    Args:
        snapshot: the clusters and their users.
        rules: targets and limits.

    Returns:
        a plan, perhaps without moves; `Plan.problems` names what it leaves undone.

    Raises:
        PlanImpossible: the bytes that must leave have no room anywhere.
    """
    free = targets.movable(snapshot)
    disk = targets.disk(snapshot, rules, free)
    if disk is None:
        raise PlanImpossible(no_room(snapshot, rules, free))
    writes = targets.writes(snapshot, rules, free)
    notes = []
    giants = targets.giants(snapshot, free, disk, writes)
    if len(giants):
        level = targets.giants_level(snapshot, giants, disk)
        free[giants] = False
        around = targets.disk(snapshot, rules, free)
        assert around is not None  # what stays is no more than what was there
        # Giants may stay above the high water that the first level wanted them under.
        disk = replace(around, best=max(min(disk.best, around.best), level))
        writes = targets.writes(snapshot, rules, free)
        some = ", ".join(map(str, np.sort(snapshot.users.userid[giants])[:5]))
        notes.append(
            f"{len(giants)} users are too large, or write too much, for the room of any receiver, "
            f"and stay: userid {some}" + ", ..." * (len(giants) > 5)
        )
    if writes is None:
        measured = any(figures.busy is not None for figures in snapshot.clusters)
        why = (
            "nobody knows how much users write (see docs/balancing.md)"
            if measured
            else "nobody has measured how busy the disks are"
        )
        notes.append(f"{why}: only disk space is balanced")
    if embedded := [str(f.clusterid) for f in snapshot.clusters if f.embedded]:
        notes.append(
            f"on SQLite nobody can tell how much users write: those of cluster "
            f"{', '.join(embedded)} count as writing nothing"
        )
    if unknown := sum(figures.unsurveyed for figures in snapshot.clusters):
        notes.append(f"{unknown} users have not been surveyed: they stay where they are")
    return _Planning(snapshot, rules, free, disk, writes, notes).run()


class _Planning:
    def __init__(
        self,
        snapshot: Snapshot,
        rules: BalanceRules,
        free: NDArray[np.bool_],
        disk: targets.Dimension,
        writes: targets.Dimension | None,
        notes: list[str],
    ) -> None:
        self.notes = notes
        self.snapshot, self.rules, self.free = snapshot, rules, free
        self.disk, self.writes = disk, writes
        self.clusters = [
            Books(
                index=i,
                clusterid=figures.clusterid,
                draining=figures.state is ClusterState.DRAINING,
                above_high_water=disk.load[i] > rules.high_water * figures.disk_total,
                disk=int(disk.load[i]),
                disk_target=int(disk.target[i]),
                disk_ceiling=int(disk.high[i]),
                rate=float(writes.load[i]) if writes else 0.0,
                rate_target=float(writes.target[i]) if writes else math.inf,
            )
            for i, figures in enumerate(snapshot.clusters)
        ]
        leaving = np.bincount(snapshot.users.cluster[free], minlength=len(self.clusters))
        for cluster in self.clusters:
            if cluster.draining:
                cluster.to_drain = int(leaving[cluster.index])
        self.scores_before = [cluster.score() for cluster in self.clusters]
        self.moves: list[Move] = []
        self.moved_bytes = 0
        self.problems: list[str] = []
        self.cut_short = False
        self.receivers: list[tuple[float, int]] = []
        # Nothing of this size and these writes fits, and rooms only shrink.
        self.no_room: tuple[int, float] = (1 << 62, 0.0)
        self.no_need_room = 1 << 62

    def run(self) -> Plan:
        donors = [
            Donor(cluster, self.snapshot, self.free)
            for cluster, figures in zip(self.clusters, self.snapshot.clusters, strict=True)
            if cluster.to_drain
            or (
                figures.state in (ClusterState.UP, ClusterState.FULL)
                and (cluster.over_disk() > 0 or cluster.over_rate() > 0)
            )
        ]
        least = sum(self._least_bytes(donor) for donor in donors)
        giving = {donor.cluster.index for donor in donors}
        self.receivers = [
            (cluster.score(), cluster.index)
            for cluster in self.clusters
            if self.snapshot.clusters[cluster.index].receives and cluster.index not in giving
        ]
        heapq.heapify(self.receivers)
        worst = [(-donor.cluster.score(), donor.cluster.index, donor) for donor in donors]
        heapq.heapify(worst)
        while worst and not (self.rules.max_moves and len(self.moves) >= self.rules.max_moves):
            _, index, donor = worst[0]
            if self._give_one(donor):
                heapq.heapreplace(worst, (-donor.cluster.score(), index, donor))
            else:
                heapq.heappop(worst)
        if worst or self.cut_short:
            self.problems.append(
                "the plan ends at max_moves or max_bytes: carry it out, survey and plan again"
            )
        self.problems += what_is_left(self.snapshot, self.free, self.clusters)
        return self._plan(least)

    def _give_one(self, donor: Donor) -> bool:
        """Move one user off the donor; False when it need not, or can't, give more."""
        cluster = donor.cluster
        if cluster.draining:
            while (place := donor.next_to_drain()) is not None:
                if self._try(donor, place, Why.DRAIN):
                    return True
            return False
        while (excess := cluster.over_rate()) > 0:
            at = donor.next_for_writes(excess)
            if at is None:
                break
            if self._try(donor, at, Why.WRITES):
                return True
        if (over := cluster.over_disk()) <= 0:
            return False
        while (at := donor.next_for_disk(over)) is not None:
            if self._try(donor, at, Why.DISK):
                return True
        return any(self._try(donor, at, Why.DISK) for at in donor.last_for_disk(over))

    def _try(self, donor: Donor, place: int, why: Why) -> bool:
        """Move one user if a receiver takes them and it is worth it."""
        size, rate = int(donor.size[place]), 0.0
        if self.writes is not None:
            rate = float(donor.rate[place])
        receiver = self._receiver(donor.cluster, size, rate, why)
        if receiver is None:
            return False
        source = donor.cluster
        donor.taken[place] = 1
        source.disk -= size
        source.rate -= rate
        source.bytes_out += size
        source.users_out += 1
        source.to_drain -= why is Why.DRAIN
        receiver.disk += size
        receiver.rate += rate
        receiver.bytes_in += size
        receiver.users_in += 1
        heapq.heappush(self.receivers, (receiver.score(), receiver.index))
        users, row = self.snapshot.users, donor.users[place]
        self.moves.append(
            Move(
                int(users.userid[row]),
                size,
                int(users.rows[row]),
                source.clusterid,
                receiver.clusterid,
                why,
            )
        )
        self.moved_bytes += size
        return True

    def _receiver(self, source: Books, size: int, rate: float, why: Why) -> Books | None:
        """The receiver with the lowest score that takes a user, taken off the heap."""
        limit = self.rules.max_bytes
        if limit and self.moved_bytes + size > limit:
            self.cut_short = True
            return None
        for in_need in (False, True) if why is Why.DRAIN else (False,):
            if in_need and size >= self.no_need_room:
                continue
            if not in_need and size >= self.no_room[0] and rate >= self.no_room[1]:
                continue
            refused: list[tuple[float, int]] = []
            found: Books | None = None
            while self.receivers and found is None:
                entry = heapq.heappop(self.receivers)
                cluster = self.clusters[entry[1]]
                if cluster.takes(size, rate, in_need=in_need):
                    found = cluster
                else:
                    refused.append(entry)
            for entry in refused:
                heapq.heappush(self.receivers, entry)
            if found is not None:
                if self._worth(source, found, size, rate, why):
                    return found
                heapq.heappush(self.receivers, (found.score(), found.index))
                return None
            if in_need:
                self.no_need_room = size
            else:
                self.no_room = (size, rate)
        return None

    def _worth(self, source: Books, to: Books, size: int, rate: float, why: Why) -> bool:
        """Whether enough of what the source sheds is an improvement of the worse of both."""
        if why is Why.DRAIN or source.above_high_water:
            return True
        now, then = source.score(), source.score(-size, -rate)
        gain = max(now, to.score()) - max(then, to.score(size, rate))
        return gain >= self.rules.improvement * (now - then) - SLACK

    def _least_bytes(self, donor: Donor) -> float:
        """The bytes that must leave this cluster in any plan."""
        cluster = donor.cluster
        stored = float(donor.size.sum(dtype=np.float64))
        if cluster.draining:
            return stored
        least = float(max(0, cluster.over_disk()))
        if (excess := cluster.over_rate()) > 0:
            by_writes = targets.least_bytes_for_writes(donor.size, donor.rate, excess)
            least = max(least, by_writes)
        return min(least, stored)

    def _plan(self, least: float) -> Plan:
        forecast = tuple(
            Forecast(
                clusterid=cluster.clusterid,
                state=figures.state,
                disk_total=figures.disk_total,
                disk_target=cluster.disk_target,
                disk_before=int(self.disk.load[i]),
                disk_after=cluster.disk,
                busy_target=self._busy(i, cluster.rate_target),
                busy_before=(
                    self._busy(i, float(self.writes.load[i])) if self.writes else figures.busy
                ),
                busy_after=self._busy(i, cluster.rate),
                users_in=cluster.users_in,
                users_out=cluster.users_out,
                bytes_in=cluster.bytes_in,
                bytes_out=cluster.bytes_out,
                score_before=self.scores_before[i],
                score_after=cluster.score(),
            )
            for i, (cluster, figures) in enumerate(
                zip(self.clusters, self.snapshot.clusters, strict=True)
            )
        )
        after = np.array([float(cluster.disk) for cluster in self.clusters])
        stays = np.array(
            [c.state in (ClusterState.UP, ClusterState.FULL) for c in self.snapshot.clusters]
        )
        capacity = self.disk.capacity[stays]
        return Plan(
            moves=self.moves,
            forecast=forecast,
            least_bytes=math.ceil(least),
            best_spread=_spread(after[stays], capacity, self.disk.best),
            spread_before=_spread(self.disk.load[stays], capacity),
            spread_after=_spread(after[stays], capacity),
            problems=tuple(self.problems),
            notes=tuple(self.notes),
        )

    def _busy(self, index: int, rate: float) -> float | None:
        if self.writes is None:
            return None
        return rate / float(self.writes.capacity[index])


def _spread(load: targets.Floats, capacity: targets.Floats, level: float | None = None) -> float:
    """The highest level, or the one given, over the average level."""
    if not len(load):
        return 0.0
    highest = float(np.max(load / capacity)) if level is None else level
    return ratio(highest, float(np.sum(load)) / float(np.sum(capacity)))
