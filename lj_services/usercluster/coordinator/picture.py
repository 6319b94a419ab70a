"""What the coordinator knows of the moves: which wait, which rest, which run, and where.

Whoever keeps a `Picture` tells it what was read (`replace`, `learn`).  What it is wrong about does
no harm: a claim is decided in the database, and a claim that fails corrects the picture.  What
may be done with the moves in it: `scheduling`.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from math import inf
from typing import TypeVar

from lj_services.usercluster.coordinator.jobs import SIDES, Job, Kind, Side

Way = tuple[int, int, Kind]
"""Source, destination, kind."""
Place = tuple[int, int]
"""The place in a queue: the higher priority goes first, then the older move."""


class Picture:
    """The moves that are active: in a queue, resting, or running."""

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}
        """Connected worker -> moves at once."""
        self._jobs: dict[int, Job] = {}
        self._running: dict[int, str] = {}
        self._picked: set[int] = set()
        self._told: dict[int, float | None] = {}
        self._queues: dict[Way, list[Place]] = {}
        self._resting: list[tuple[int, int]] = []
        self._on: dict[tuple[Side, int], set[int]] = defaultdict(set)
        self._purging: dict[int, set[int]] = defaultdict(set)
        self._of_user: dict[int, set[int]] = defaultdict(set)
        self._of_worker: dict[str, set[int]] = defaultdict(set)

    def replace(self, jobs: Iterable[Job], before: Collection[int], now: int) -> None:
        """Take over everything that is active.

        Args:
            jobs: as they were read.
            before: the moves that were known when the reading began: those of them that were not
                found are forgotten.
            now: the clock of ``global``, in milliseconds.
        """
        fresh = {job.move_id: job for job in jobs}
        for move_id in before:
            if move_id not in fresh and move_id not in self._picked:
                self.forget(move_id)
        for job in fresh.values():
            if self._jobs.get(job.move_id) != job:
                self.learn(job, now)

    def learn(self, job: Job, now: int) -> None:
        """Take over what was read of one move.

        Args:
            job: as it was read; older than what a claim told is not taken.
            now: the clock of ``global``, in milliseconds.
        """
        known = self._jobs.get(job.move_id)
        if job.move_id in self._picked or (known is not None and known.claim > job.claim):
            return
        same = known is not None and known.claim == job.claim
        told = self._told.get(job.move_id) if same else None
        self.forget(job.move_id)
        if job.final:
            return
        self._jobs[job.move_id] = job
        if job.owner is not None and job.lease_until > now:
            self._run(job, job.owner)
            self._told[job.move_id] = told
        elif job.kind is Kind.THAW:
            pass  # not for workers
        elif job.due_at > now:
            heapq.heappush(self._resting, (job.due_at, job.move_id))
        else:
            insort(self._queue(job), place_of(job))

    def forget(self, move_id: int) -> None:
        """Know nothing of a move any more."""
        job = self._jobs.pop(move_id, None)
        self._picked.discard(move_id)
        if job is None:
            return
        worker = self._running.pop(move_id, None)
        self._told.pop(move_id, None)
        if worker is None:
            queue = self._queue(job)
            at = bisect_left(queue, place_of(job))
            if at < len(queue) and queue[at] == place_of(job):
                del queue[at]
            return
        for side in SIDES:
            self._on[side, job.cluster(side)].discard(move_id)
        self._purging[job.src].discard(move_id)
        _take_out(self._of_user, job.userid, move_id)
        _take_out(self._of_worker, worker, move_id)

    def _queue(self, job: Job) -> list[Place]:
        return self._queues.setdefault((job.src, job.dst, job.kind), [])

    def _run(self, job: Job, worker: str) -> None:
        self._running[job.move_id] = worker
        self._told[job.move_id] = None
        self._of_user[job.userid].add(job.move_id)
        self._of_worker[worker].add(job.move_id)
        if job.kind in (Kind.MOVE, Kind.THAW):
            for side in SIDES:
                self._on[side, job.cluster(side)].add(job.move_id)
        elif job.kind is Kind.PURGE:
            self._purging[job.src].add(job.move_id)

    def joined(self, worker: str, slots: int) -> None:
        """A worker is connected, and takes so many moves at once."""
        self.slots[worker] = slots

    def left(self, worker: str) -> None:
        """A worker is not connected any more; its moves stay its own while their leases live."""
        self.slots.pop(worker, None)

    def _wake(self, now: int) -> None:
        while self._resting and self._resting[0][0] <= now:
            _, move_id = heapq.heappop(self._resting)
            job = self._jobs.get(move_id)
            if job is None or job.due_at > now or move_id in self._running:
                continue
            queue, place = self._queue(job), place_of(job)
            at = bisect_left(queue, place)
            if job.kind is not Kind.THAW and (at == len(queue) or queue[at] != place):
                queue.insert(at, place)

    @property
    def jobs(self) -> Mapping[int, Job]:
        """Every move that is known, by its number."""
        return self._jobs

    @property
    def running(self) -> Mapping[int, str]:
        """Running move -> worker."""
        return self._running

    def rate(self, move_id: int) -> float | None:
        """Rows a second that a running move was told; None: any number, or not known."""
        return _finite(self._told.get(move_id))

    def running_on(self, side: Side, cluster: int) -> int:
        """How many moves run on a side of a cluster."""
        return len(self._on[side, cluster])

    def waiting(self) -> dict[tuple[int, Kind], int]:
        """(Source, kind) -> how many moves wait and are due."""
        found: dict[tuple[int, Kind], int] = defaultdict(int)
        for (src, _, kind), queue in self._queues.items():
            if queue:
                found[src, kind] += len(queue)
        return dict(found)


K = TypeVar("K")


def _take_out(sets: dict[K, set[int]], key: K, move_id: int) -> None:
    """Empty sets are not kept: there is one for every user who ever moved."""
    sets[key].discard(move_id)
    if not sets[key]:
        del sets[key]


def _finite(rate: float | None) -> float | None:
    return None if rate == inf else rate


def place_of(job: Job) -> Place:
    """Where a move stands in its queue."""
    return (-job.priority, job.move_id)
