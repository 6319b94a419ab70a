"""Where a job is, and how it gets from one place to another.

From its submission until it is done a job is in `Places.jobs`, by its handle, and in exactly
one place of its function: one of the three queues, the scheduled ones, or the running ones.
It leaves its place at once when it is cancelled or abandoned, so that the counts that
administrators see are true.  Whoever must know of a job's moves is told here, and only here:
sleeping workers, the timers, and the ledger of what must be stored.
"""

from __future__ import annotations

from lj_services.gearman.jobs import (
    NO_PROGRESS,
    NOBODY,
    Function,
    Job,
    JobState,
    Peer,
    Priority,
)
from lj_services.gearman.ledger import Ledger
from lj_services.gearman.protocol import PacketType
from lj_services.gearman.rules import Refused, Rules, check_function_name
from lj_services.gearman.store import Row
from lj_services.gearman.timers import Timers
from lj_services.gearman.waking import Wakes

PRIORITIES = tuple(Priority)


class Places:
    """All jobs of a server, each in its place.

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
        self.timers = Timers()
        self.wakes = Wakes()
        self.ledger: Ledger | None = None
        """Where background jobs are accounted for that are to be stored; None: none are."""

    @property
    def any_running(self) -> bool:
        """Whether a worker has a job."""
        return any(function.running for function in self.functions.values())

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

    def fail(self, job: Job) -> None:
        """Give a job up, and tell whoever waits."""
        job.tell(PacketType.WORK_FAIL)
        job.function.failed += 1
        self.remove(job)

    def make(self, function: Function, unique: bytes, data: bytes, priority: int) -> Job:
        """A new job, that is nowhere yet.

        Raises:
            Refused: there are too many.
        """
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

    def place(self, job: Job, run_at: float) -> None:
        """Put a job where it waits: among the scheduled ones, or into its queue."""
        job.run_at = run_at
        function = job.function
        if run_at > self.wall:
            job.state = JobState.SCHEDULED
            function.scheduled[job.handle] = job
            self.timers.schedule(job)
            return
        function.push(job)
        if function.sleepers:
            self.wakes.wake(function, self.now)

    def displace(self, job: Job) -> None:
        """Take a job from where it is."""
        function = job.function
        if job.state is JobState.RUNNING:
            del function.running[job.handle]
            if job.worker is not None:
                del job.worker.running[job.handle]
            job.worker = None
            if job.deadline:
                self.timers.unlimit(job)
        elif job.state is JobState.SCHEDULED:
            del function.scheduled[job.handle]
            self.timers.unschedule(job)
        elif job.state is JobState.QUEUED:
            function.pull(job)
        job.state = JobState.GONE

    def remove(self, job: Job) -> None:
        """A job is not there any more."""
        self.displace(job)
        handle = job.handle
        del self.jobs[handle]
        if self.ledger is not None and job.background:
            self.ledger.ended(job)
        self.data_bytes -= len(job.data)
        if job.unique and (key := job.key) is not None:
            del job.function.shared[key]
        if job.waiters:
            for peer in job.waiters:
                peer.waiting.pop(handle, None)
            job.waiters = NOBODY
        job.data = b""  # its place in a queue may outlive it

    def give_back(self, job: Job) -> None:
        """A worker has lost its job: another one gets it, unless that was so too often."""
        self.displace(job)
        job.retries += 1
        if job.ignored:
            job.function.dropped += 1
            self.remove(job)
        elif 0 <= self.rules.job_retries < job.retries:
            self.fail(job)
        else:
            job.progress = NO_PROGRESS
            job.function.requeued += 1
            self.place(job, 0.0)

    def take(self, peer: Peer) -> Job | None:
        """Give a worker the first job of those that it can do; None if there is none."""
        abilities = peer.abilities
        for function, _ in abilities.values():
            if function.ready:
                break
        else:
            return None
        for priority in PRIORITIES:
            for name, (function, limit) in abilities.items():
                if not function.ready:
                    continue
                job = function.first(priority)
                if job is None:
                    continue
                if len(abilities) > 1 and self.rules.round_robin:
                    abilities.move_to_end(name)
                self.start(job, peer, limit)
                return job
        return None

    def start(self, job: Job, peer: Peer, limit: float) -> None:
        """A worker has a job, for `limit` seconds at most; 0: for any time."""
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
            self.timers.limit(job)
        else:
            job.deadline = 0.0

    def restore(self, row: Row) -> None:
        """Take in a job that was stored; nobody waits for it, and no limit keeps it out."""
        function = self.functions.get(row.function) or self.function(row.function)
        handle = b"%b%d" % (self._prefix, row.number)
        job = Job(handle, function, row.unique, row.data, row.priority, self.now)
        job.background = True
        job.reducer = row.reducer
        self.jobs[handle] = job
        self.data_bytes += len(row.data)
        self.newest = max(self.newest, row.number)
        if row.unique and (key := job.key) is not None:
            function.shared[key] = job
        self.place(job, row.run_at)
