"""What happens to jobs because time passes: some become due, some take too long."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import Final

from lj_services.gearman.jobs import Job, JobState

LEAST_STALE: Final = 64
"""So many entries of jobs that are not scheduled any more are not worth looking for."""


class Timers:
    """The scheduled jobs in the order of their times, and the running ones that have a limit."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._stale = 0
        self._limited: dict[Job, None] = {}

    def schedule(self, job: Job) -> None:
        """A job waits for its time (`Job.run_at`)."""
        heapq.heappush(self._due, (job.run_at, next(self._order), job))

    def unschedule(self, job: Job) -> None:
        """A scheduled job is due no more, or was given another time."""
        # It stays in the heap, where only its front is cheap to take from.
        self._stale += 1
        if self._stale > LEAST_STALE and 2 * self._stale > len(self._due):
            self._due = [entry for entry in self._due if _stands(entry)]
            heapq.heapify(self._due)
            self._stale = 0

    def due(self, wall: float) -> Iterator[Job]:
        """Take out the scheduled jobs whose time has come.

        Args:
            wall: of the wall clock, in seconds of the epoch.
        """
        while self._due and self._due[0][0] <= wall:
            entry = heapq.heappop(self._due)
            if _stands(entry):
                yield entry[2]
            else:
                self._stale -= 1

    def limit(self, job: Job) -> None:
        """A job runs that has a `Job.deadline`."""
        self._limited[job] = None

    def unlimit(self, job: Job) -> None:
        """A job with a deadline does not run any more."""
        self._limited.pop(job, None)

    def late(self, now: float) -> list[Job]:
        """The running jobs that have taken too long.

        Args:
            now: of the queues' clock, in seconds.
        """
        return [job for job in self._limited if job.deadline <= now]


def _stands(entry: tuple[float, int, Job]) -> bool:
    """Whether what was said of a job's time is still so."""
    run_at, _, job = entry
    return job.state is JobState.SCHEDULED and job.run_at == run_at
