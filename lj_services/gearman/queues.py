"""The state of a Gearman server: which jobs there are, who does them and who waits.

Theory of operation
===================

Every job is in `Queues.jobs`, by its handle, from its submission until it is done, and in
exactly one place of its function: one of the three queues, the scheduled ones, or the
running ones.  A job leaves its place at once when it is cancelled or abandoned, so that
the counts that administrators see are true.

Submissions with the same function and unique key share a job, whether it waits or runs:
the first one's data is used and all get the result.  The key ``-`` stands for the data
itself.  A job shared by a background submission is done even if all who waited have left.

A worker that is asleep is woken for a job, not for nothing: as many workers of a function
are awake and expected as there are jobs ready.  If one that was woken does not ask for
work in time, it is not counted any more and another one is woken (`waking.py`).
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from lj_services.gearman.jobs import (
    LEAST_TIMEOUT_S,
    Function,
    Job,
    JobState,
    Peer,
    Priority,
)
from lj_services.gearman.protocol import PacketType
from lj_services.gearman.waking import Wakes


class Refused(Exception):
    """Something that the server does not do now.

    Args:
        code: the word by which programs know it.
        text: why, for people.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Rules:
    """What the queues may do."""

    job_retries: int = -1
    """How often a job whose worker was lost is given to another one; -1: always."""
    on_timeout: Literal["fail", "retry"] = "fail"
    max_queue: int = 0
    """Jobs of a function, beyond which more are refused; 0: any number."""
    max_data: int = 0
    """Bytes of all jobs' data, beyond which more are refused; 0: any number."""
    max_functions: int = 100_000


class Queues:
    """All jobs of a server.

    Args:
        handle_prefix: what job handles start with; ``H:host`` gives ``H:host:1``.
        rules: limits and policies; may be replaced while it runs.
        now: the clock's time at the start, in seconds; see `advance`.
        wall: wall clock time at the start, in seconds of the epoch.
    """

    def __init__(
        self,
        handle_prefix: str = "H:localhost",
        rules: Rules | None = None,
        *,
        now: float = 0.0,
        wall: float = 0.0,
    ) -> None:
        self.rules = rules or Rules()
        self.functions: dict[bytes, Function] = {}
        self.jobs: dict[bytes, Job] = {}
        self.data_bytes = 0
        self.now = now
        self.wall = wall
        self._prefix = handle_prefix.encode()
        self._numbers = itertools.count(1)
        self._shared: dict[tuple[bytes, bytes, bytes], Job] = {}
        self._uniques: dict[bytes, OrderedDict[bytes, Job]] = {}
        self._order = itertools.count()
        self._due: list[tuple[float, int, Job]] = []
        self._deadlines: list[tuple[float, int, Job]] = []
        self._wakes = Wakes()

    @property
    def any_running(self) -> bool:
        """Whether a worker has a job."""
        return any(function.running for function in self.functions.values())

    # -- functions and workers ------------------------------------------------------

    def function(self, name: bytes) -> Function:
        """The function of that name, made if there is none.

        Raises:
            Refused: there are too many functions.
        """
        found = self.functions.get(name)
        if found is None:
            if len(self.functions) >= self.rules.max_functions:
                raise Refused(
                    "QUEUE_ERROR", "too many functions; drop those that are not used any more"
                )
            found = self.functions[name] = Function(name, self.rules.max_queue)
        return found

    def can_do(self, peer: Peer, name: bytes, timeout_s: float = 0.0) -> None:
        """A worker says that it can do a function.

        Args:
            peer: the worker.
            name: of the function.
            timeout_s: seconds that a job may take; 0: any time.

        Raises:
            Refused: there are too many functions.
        """
        function = self.function(name)
        limit = max(timeout_s, LEAST_TIMEOUT_S) if timeout_s > 0 else 0.0
        peer.abilities[name] = (function, limit)
        function.workers[peer] = None
        if peer.sleeping and peer.woken_for is None:
            function.sleepers[peer] = None
            self._wakes.wake(function, self.now)

    def cant_do(self, peer: Peer, name: bytes) -> None:
        """A worker can't do a function any more."""
        found = peer.abilities.pop(name, None)
        if found is not None:
            found[0].workers.pop(peer, None)
            found[0].sleepers.pop(peer, None)

    def sleep(self, peer: Peer) -> None:
        """A worker goes to sleep; it is woken at once if a job is ready for it."""
        was_for = self._wakes.heard(peer, self.now)
        peer.sleeping = True
        for function, _ in peer.abilities.values():
            function.sleepers[peer] = None
        for function, _ in list(peer.abilities.values()):
            self._wakes.wake(function, self.now)
            if peer.woken_for is not None:
                break
        if was_for is not None:
            self._wakes.wake(was_for, self.now)  # which it may not be able to do any more

    def leave(self, peer: Peer) -> None:
        """A connection has ended: its jobs go to other workers, what it waited for is let go."""
        peer.gone = True
        peer.take()
        for job in list(peer.waiting.values()):
            job.waiters.pop(peer, None)
            if job.ignored and job.state is not JobState.RUNNING:
                job.function.dropped += 1
                self._remove(job)
        peer.waiting.clear()
        for name in list(peer.abilities):
            self.cant_do(peer, name)
        for job in list(peer.running.values()):
            self._give_back(job)
        self._wakes.heard(peer, self.now)

    # -- jobs -------------------------------------------------------------------------

    def submit(
        self,
        peer: Peer | None,
        name: bytes,
        unique: bytes,
        data: bytes,
        priority: Priority = Priority.NORMAL,
        *,
        background: bool = False,
        reducer: bytes | None = None,
        run_at: float = 0.0,
    ) -> Job:
        """Take in a job, or join one that is there already.

        Args:
            peer: who submits; it waits for the result unless `background`.
            name: of the function.
            unique: key under which submissions share a job; empty: they don't; ``-``: the
                data is the key.
            data: for the function.
            priority: of the job, if it is a new one.
            background: nobody waits, and it is done nevertheless.
            reducer: function that the worker is told to sum up with.
            run_at: time of the wall clock before which it must not run; 0: none.

        Raises:
            Refused: the queue is full.
        """
        function = self.function(name)
        key = _key(name, unique, data)
        job = self._shared.get(key) if key is not None else None
        if job is None:
            limit = function.max_queue[priority]
            rules = self.rules
            too_much = 0 < rules.max_data < self.data_bytes + len(data)
            if too_much or (limit and function.total >= limit):
                function.refused += 1
                raise Refused("QUEUE_ERROR", "Job queue is full")
            handle = b"%s:%d" % (self._prefix, next(self._numbers))
            job = Job(handle, function, unique, data, priority, self.now, key, reducer)
            self._enter(job)
        else:
            function.coalesced += 1
        function.submitted += 1
        if background or peer is None:
            job.background = True
        else:
            job.waiters[peer] = job.waiters.get(peer, 0) + 1
            peer.waiting[job.handle] = job
        if peer is not None:
            peer.send(PacketType.JOB_CREATED, job.handle)
        if job.state is JobState.GONE:
            self._place(job, run_at)
        elif job.state is JobState.SCHEDULED and run_at < job.run_at:
            del function.scheduled[job.handle]
            self._place(job, run_at)
        return job

    def grab(self, peer: Peer) -> Job | None:
        """Give a worker its next job: the highest priority of all its functions, and of
        equals the function whose turn it is.  None if there is none."""
        was_for = self._wakes.heard(peer, self.now)
        job = self._take(peer)
        if was_for is not None:
            self._wakes.wake(was_for, self.now)  # it may have taken another one's job
        return job

    def running(self, peer: Peer, handle: bytes) -> Job:
        """The job that a worker reports about.

        Raises:
            Refused: the worker does not have such a job.
        """
        job = peer.running.get(handle)
        if job is None:
            raise Refused("JOB_NOT_FOUND", "Job given in work result not found")
        return job

    def finish(self, job: Job, *, failed: bool) -> None:
        """A job has ended; whoever waits has been told."""
        function = job.function
        if failed:
            function.failed += 1
        else:
            function.completed += 1
        function.ended += 1
        function.ran_s += self.now - job.started
        self._remove(job)

    def fail(self, job: Job) -> None:
        """Give a job up, and tell whoever waits."""
        job.tell(PacketType.WORK_FAIL)
        job.function.failed += 1
        self._remove(job)

    def cancel(self, handle: bytes) -> bool:
        """Cancel a job that no worker has; False if there is no such job."""
        job = self.jobs.get(handle)
        if job is None or job.state is JobState.RUNNING:
            return False
        self.fail(job)
        return True

    def by_unique(self, unique: bytes) -> Job | None:
        """The oldest job with that unique key, of whatever function."""
        found = self._uniques.get(unique)
        return next(iter(found.values())) if found else None

    def drop(self, name: bytes) -> None:
        """Forget a function; the jobs that wait for it fail.

        Raises:
            Refused: there is none, or it has workers or running jobs.
        """
        function = self.functions.get(name)
        if function is None:
            raise Refused("UNKNOWN_FUNCTION", "function not found")
        if function.workers or function.running:
            raise Refused(
                "FUNCTION_IN_USE", "there are still connected workers or executing clients"
            )
        waiting = [job for queue in function.queues for job in queue.values()]
        for job in [*waiting, *function.scheduled.values()]:
            self.fail(job)
        del self.functions[name]

    # -- time -------------------------------------------------------------------------

    def advance(self, now: float, wall: float) -> None:
        """Let time pass: jobs become due or take too long, sleepers that don't wake are
        passed over.

        Args:
            now: of a clock that only goes forward, in seconds.
            wall: of the wall clock, in seconds of the epoch.
        """
        self.now, self.wall = now, wall
        while self._due and self._due[0][0] <= wall:
            run_at, _, job = heapq.heappop(self._due)
            if job.state is JobState.SCHEDULED and job.run_at == run_at:
                del job.function.scheduled[job.handle]
                self._place(job, 0.0)
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, _, job = heapq.heappop(self._deadlines)
            if job.state is JobState.RUNNING and job.deadline == deadline:
                job.function.timed_out += 1
                if self.rules.on_timeout == "retry":
                    self._give_back(job)
                else:
                    self.fail(job)
        self._wakes.pass_over(now)

    # -- inside -----------------------------------------------------------------------

    def _enter(self, job: Job) -> None:
        self.jobs[job.handle] = job
        self.data_bytes += len(job.data)
        if job.key is not None:
            self._shared[job.key] = job
        if job.unique:
            self._uniques.setdefault(job.unique, OrderedDict())[job.handle] = job

    def _place(self, job: Job, run_at: float) -> None:
        """Put a job where it waits: among the scheduled ones, or into its queue."""
        job.run_at = run_at
        if run_at > self.wall:
            job.state = JobState.SCHEDULED
            job.function.scheduled[job.handle] = job
            heapq.heappush(self._due, (run_at, next(self._order), job))
            return
        job.state = JobState.QUEUED
        job.function.queues[job.priority][job.handle] = job
        self._wakes.wake(job.function, self.now)

    def _displace(self, job: Job) -> None:
        """Take a job from where it is."""
        function = job.function
        if job.state is JobState.RUNNING:
            function.running.pop(job.handle)
            if job.worker is not None:
                job.worker.running.pop(job.handle)
            job.worker = None
        elif job.state is JobState.SCHEDULED:
            function.scheduled.pop(job.handle)
        elif job.state is JobState.QUEUED:
            function.queues[job.priority].pop(job.handle)
        job.state = JobState.GONE

    def _remove(self, job: Job) -> None:
        self._displace(job)
        del self.jobs[job.handle]
        self.data_bytes -= len(job.data)
        if job.key is not None:
            del self._shared[job.key]
        if job.unique:
            same = self._uniques[job.unique]
            del same[job.handle]
            if not same:
                del self._uniques[job.unique]
        for peer in job.waiters:
            peer.waiting.pop(job.handle, None)
        job.waiters.clear()

    def _give_back(self, job: Job) -> None:
        """A worker has lost its job: another one gets it, unless that was so too often."""
        self._displace(job)
        job.retries += 1
        if job.ignored:
            job.function.dropped += 1
            self._remove(job)
        elif 0 <= self.rules.job_retries < job.retries:
            self.fail(job)
        else:
            job.numerator = job.denominator = b"0"
            job.function.requeued += 1
            self._place(job, 0.0)

    def _take(self, peer: Peer) -> Job | None:
        for priority in Priority:
            for name, (function, limit) in peer.abilities.items():
                queue = function.queues[priority]
                if not queue:
                    continue
                _, job = queue.popitem(last=False)
                peer.abilities.move_to_end(name)
                job.state = JobState.RUNNING
                job.worker = peer
                job.started = self.now
                function.running[job.handle] = job
                peer.running[job.handle] = job
                function.started += 1
                function.waited_s += self.now - job.created
                job.deadline = self.now + limit if limit else 0.0
                if limit:
                    heapq.heappush(self._deadlines, (job.deadline, next(self._order), job))
                return job
        return None


def _key(name: bytes, unique: bytes, data: bytes) -> tuple[bytes, bytes, bytes] | None:
    """What submissions that share a job have in common."""
    if not unique:
        return None
    if unique != b"-":
        return name, unique, b""
    return (name, b"-", data) if data else None
