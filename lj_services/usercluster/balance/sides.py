"""The two sides of a move while a plan is made: clusters' books, and donors' users in order.

Which users a donor offers is told in `planner`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lj_services.usercluster.balance.snapshot import Snapshot

HOT_DENSITY = 2.0
"""Times its cluster's writes per byte above which a user counts as busy."""
SLACK = 1e-9
"""Relative error of sums of write rates."""
LAST_TRIES = 32
"""How many users are tried as the last, too large one before a cluster is given up."""


@dataclass(slots=True)
class Books:
    """A cluster as it would be after the moves so far."""

    index: int
    clusterid: int
    draining: bool
    above_high_water: bool
    disk: int
    disk_target: int
    disk_ceiling: int
    rate: float
    rate_target: float
    bytes_in: int = 0
    bytes_out: int = 0
    users_in: int = 0
    users_out: int = 0
    to_drain: int = 0

    def score(self, size: int = 0, rate: float = 0.0) -> float:
        """Load over target, the worse of the two; with `size` and `rate` more than now."""
        if self.to_drain:
            return math.inf
        return max(
            ratio(self.disk + size, self.disk_target),
            ratio(self.rate + rate, self.rate_target),
        )

    def over_disk(self) -> int:
        """Bytes above the target; negative below it."""
        return self.disk - self.disk_target

    def over_rate(self) -> float:
        """Writes a second above the target; negative below it."""
        return self.rate - self.rate_target * (1 + SLACK)

    def takes(self, size: int, rate: float, *, in_need: bool) -> bool:
        """Whether a user fits: under the targets, or in need under the ceiling of the disk."""
        if in_need:
            return self.disk + size <= self.disk_ceiling
        return self.disk + size <= self.disk_target and self.rate + rate <= self.rate_target


def ratio(load: float, target: float) -> float:
    """Load over target; a target of nothing is either kept or infinitely exceeded."""
    if target > 0:
        return load / target
    return math.inf if load > 0 else 0.0


class Donor:
    """A cluster that gives, and the users that it may give: in columns, in the disk's order."""

    def __init__(self, cluster: Books, snapshot: Snapshot, free: NDArray[np.bool_]) -> None:
        self.cluster = cluster
        users = snapshot.users
        found = np.flatnonzero((users.cluster == cluster.index) & free)
        size, rate = users.size[found], users.write_rate[found]
        written = float(rate.sum(dtype=np.float64))
        stored = float(size.sum(dtype=np.float64))
        hot = rate * stored > HOT_DENSITY * written * size
        if cluster.draining:
            hot[:] = False  # all of them leave: only the sizes matter
        order = np.lexsort((users.userid[found], -size, hot))
        self.users = found[order]
        self.size = size[order]
        self.rate = rate[order]
        self._falling = -self.size  # ascending within quiet users, and within busy ones
        quiet = len(hot) - int(hot.sum())
        self._runs = [(0, quiet), (quiet, len(hot))]
        self._place = [0, quiet]
        self.taken = bytearray(len(hot))
        self._by_density: list[int] | None = None
        self._offered: set[int] = set()  # for their writes: each is offered once
        self._last_tries = LAST_TRIES

    def next_to_drain(self) -> int | None:
        """The largest user who is left."""
        place = self._place[0]
        self._place[0] += 1
        return place if place < len(self.size) else None

    def next_for_disk(self, excess: int) -> int | None:
        """The largest user who is not larger than `excess`: quiet ones first."""
        for run, (_, end) in enumerate(self._runs):
            while (place := self._place[run]) < end:
                place = bisect_left(self._falling, -excess, place, end)
                if place == end:
                    break  # stays where it is: with less excess there are fewer still
                self._place[run] = place + 1
                if not self.taken[place]:
                    return place
        return None

    def last_for_disk(self, excess: int) -> list[int]:
        """Users larger than `excess`, the smallest first, as many as may be tried."""
        found: list[int] = []
        for begin, end in self._runs:
            place = bisect_left(self._falling, -excess, begin, end) - 1
            tries = LAST_TRIES
            while place >= begin and tries:
                if not self.taken[place]:
                    found.append(place)
                    tries -= 1
                place -= 1
        return sorted(found, key=lambda place: (int(self.size[place]), place))

    def next_for_writes(self, excess: float) -> int | None:
        """The user with the most writes per byte; if they suffice, the smallest who does."""
        if self._by_density is None:
            density = self.rate / np.maximum(self.size, 1)
            # Equal ones keep their places, which do not depend on how the users were read.
            order = np.argsort(-density, kind="stable")
            self._by_density = order[self.rate[order] > 0][::-1].tolist()
        while self._by_density:
            place = self._by_density[-1]
            if self.taken[place] or place in self._offered:
                self._by_density.pop()
                continue
            if self.rate[place] >= excess:
                if self._last_tries == 0:
                    return None
                self._last_tries -= 1
                enough = np.flatnonzero(self.rate >= excess).tolist()
                left = [p for p in enough if not self.taken[p] and p not in self._offered]
                place = min(left, key=lambda p: (int(self.size[p]), p))
            self._offered.add(place)
            return place
        return None
