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

from lj_services.gearman.jobs import (
    LEAST_TIMEOUT_S,
    NO_PROGRESS,
    NOBODY,
    Function,
    Job,
    JobState,
    Peer,
    Priority,
    shared_key,
)
from lj_services.gearman.protocol import PacketType, created
from lj_services.gearman.rules import Refused, Rules, check_function_name
from lj_services.gearman.timers import Timers
from lj_services.gearman.waking import Wakes

HIGH, NORMAL, LOW = Priority


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
        self.newest = 0
        """Number of the newest job; its handle ends with it."""
        self._prefix = handle_prefix.encode() + b":"
        self._timers = Timers()
        self._wakes = Wakes()

    @property
    def any_running(self) -> bool:
        """Whether a worker has a job."""
        return any(function.running for function in self.functions.values())

    # -- functions and workers ------------------------------------------------------

    def function(self, name: bytes) -> Function:
        """The function of that name, made if there is none.

        Raises:
            Refused: the name is none, or there are too many functions.
        """
        found = self.functions.get(name)
        if found is None:
            check_function_name(name)
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
        priority: Priority = NORMAL,
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
            Refused: the name is none, or there are too many jobs.
        """
        function = self.functions.get(name) or self.function(name)
        key = shared_key(unique, data) if unique else None
        job = function.shared.get(key) if key is not None else None
        is_new = job is None
        if job is None:
            job = self._make(function, unique, data, priority)
            if key is not None:
                function.shared[key] = job
            job.reducer = reducer
        else:
            function.coalesced += 1
        function.submitted += 1
        if background or peer is None:
            job.background = True
        else:
            job.add_waiter(peer)
        if peer is not None:
            peer.write(created(job.handle))
        if is_new:
            self._place(job, run_at)
        elif job.state is JobState.SCHEDULED and run_at < job.run_at:
            del function.scheduled[job.handle]
            self._timers.unschedule(job)
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
        found = [f.shared[unique] for f in self.functions.values() if unique in f.shared]
        return min(found, key=_age, default=None)

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
        for job in [*function.queued(), *function.scheduled.values()]:
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
        for job in self._timers.due(wall):
            del job.function.scheduled[job.handle]
            self._place(job, 0.0)
        for job in self._timers.late(now):
            job.function.timed_out += 1
            if self.rules.on_timeout == "retry":
                self._give_back(job)
            else:
                self.fail(job)
        self._wakes.pass_over(now)

    # -- inside -----------------------------------------------------------------------

    def _make(self, function: Function, unique: bytes, data: bytes, priority: int) -> Job:
        limit = function.max_queue[priority]
        most = self.rules.max_data
        size = self.data_bytes + len(data)
        if (limit and function.total >= limit) or 0 < most < size:
            function.refused += 1
            raise Refused("QUEUE_ERROR", "Job queue is full")
        self.data_bytes = size
        self.newest = number = self.newest + 1
        handle = b"%b%d" % (self._prefix, number)
        job = Job(handle, function, unique, data, priority, self.now)
        self.jobs[handle] = job
        return job

    def _place(self, job: Job, run_at: float) -> None:
        """Put a job where it waits: among the scheduled ones, or into its queue."""
        job.run_at = run_at
        function = job.function
        if run_at > self.wall:
            job.state = JobState.SCHEDULED
            function.scheduled[job.handle] = job
            self._timers.schedule(job)
            return
        function.push(job)
        if function.sleepers:
            self._wakes.wake(function, self.now)

    def _displace(self, job: Job) -> None:
        """Take a job from where it is."""
        function = job.function
        if job.state is JobState.RUNNING:
            del function.running[job.handle]
            if job.worker is not None:
                del job.worker.running[job.handle]
            job.worker = None
            if job.deadline:
                self._timers.unlimit(job)
        elif job.state is JobState.SCHEDULED:
            del function.scheduled[job.handle]
            self._timers.unschedule(job)
        elif job.state is JobState.QUEUED:
            function.pull(job)
        job.state = JobState.GONE

    def _remove(self, job: Job) -> None:
        self._displace(job)
        handle = job.handle
        del self.jobs[handle]
        self.data_bytes -= len(job.data)
        if job.unique and (key := job.key) is not None:
            del job.function.shared[key]
        if job.waiters:
            for peer in job.waiters:
                peer.waiting.pop(handle, None)
            job.waiters = NOBODY
        job.data = b""  # its place in a queue may outlive it

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
            job.progress = NO_PROGRESS
            job.function.requeued += 1
            self._place(job, 0.0)

    def _take(self, peer: Peer) -> Job | None:
        abilities = peer.abilities
        if not any(function.ready for function, _ in abilities.values()):
            return None
        for priority in (HIGH, NORMAL, LOW):
            for name, (function, limit) in abilities.items():
                if not function.ready:
                    continue
                job = function.first(priority)
                if job is None:
                    continue
                if len(abilities) > 1:
                    abilities.move_to_end(name)
                self._start(job, peer, limit)
                return job
        return None

    def _start(self, job: Job, peer: Peer, limit: float) -> None:
        function, now = job.function, self.now
        job.state = JobState.RUNNING
        job.worker = peer
        job.started = now
        function.running[job.handle] = job
        peer.running[job.handle] = job
        function.started += 1
        function.waited_s += now - job.created
        if limit:
            job.deadline = now + limit
            self._timers.limit(job)
        else:
            job.deadline = 0.0


def _age(job: Job) -> tuple[float, int]:
    """The older a job is, the less."""
    return job.created, int(job.handle.rpartition(b":")[2])
