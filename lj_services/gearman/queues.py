"""The state of a Gearman server: which jobs there are, who does them and who waits.

Theory of operation
===================

Submissions with the same function and unique key share a job, whether it waits or runs:
the first one's data is used and all get the result.  The key ``-`` stands for the data
itself.  A job shared by a background submission is done even if all who waited have left.

A worker that is asleep is woken for a job, not for nothing: as many workers of a function
are awake and expected as there are jobs ready.  If one that was woken does not ask for
work in time, it is not counted any more and another one is woken (`waking.py`).
"""

from __future__ import annotations

from lj_services.gearman.jobs import (
    Job,
    JobState,
    Peer,
    Priority,
    shared_key,
)
from lj_services.gearman.places import Places
from lj_services.gearman.protocol import created
from lj_services.gearman.rules import Refused


class Queues(Places):
    """All jobs of a server, and what clients, workers and time do to them; see `Places`."""

    # -- workers ----------------------------------------------------------------------

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
        limit = max(timeout_s, 0.0)
        peer.abilities[name] = (function, limit)
        function.workers[peer] = None
        if peer.sleeping and peer.woken_for is None:
            function.sleepers[peer] = None
            self.wakes.wake(function, self.now)

    def cant_do(self, peer: Peer, name: bytes) -> None:
        """A worker can't do a function any more."""
        found = peer.abilities.pop(name, None)
        if found is not None:
            found[0].workers.pop(peer, None)
            found[0].sleepers.pop(peer, None)

    def sleep(self, peer: Peer) -> None:
        """A worker goes to sleep; it is woken at once if a job is ready for it."""
        was_for = self.wakes.heard(peer, self.now)
        peer.sleeping = True
        for function, _ in peer.abilities.values():
            function.sleepers[peer] = None
        for function, _ in list(peer.abilities.values()):
            self.wakes.wake(function, self.now)
            if peer.woken_for is not None:
                break
        if was_for is not None:
            self.wakes.wake(was_for, self.now)  # which it may not be able to do any more

    def leave(self, peer: Peer) -> None:
        """A connection has ended: its jobs go to other workers, what it waited for is let go."""
        peer.gone = True
        peer.take()
        for job in list(peer.waiting.values()):
            job.waiters.pop(peer, None)
            if job.ignored and job.state is not JobState.RUNNING:
                job.function.dropped += 1
                self.remove(job)
        peer.waiting.clear()
        for name in list(peer.abilities):
            self.cant_do(peer, name)
        for job in list(peer.running.values()):
            self.give_back(job)
        self.wakes.heard(peer, self.now)

    # -- jobs -------------------------------------------------------------------------

    def submit(
        self,
        peer: Peer | None,
        name: bytes,
        unique: bytes,
        data: bytes,
        priority: Priority = Priority.NORMAL,
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
            job = self.make(function, unique, data, priority)
            if key is not None:
                function.shared[key] = job
            job.reducer = reducer
        else:
            function.coalesced += 1
        function.submitted += 1
        was_kept = job.background
        if background or peer is None:
            job.background = True
        else:
            job.add_waiter(peer)
        if peer is not None:
            peer.write(created(job.handle))
        is_earlier = job.state is JobState.SCHEDULED and run_at < job.run_at
        if is_new:
            self.place(job, run_at)
        elif is_earlier:
            del function.scheduled[job.handle]
            self.timers.unschedule(job)
            self.place(job, run_at)
        if self.ledger is not None and job.background:
            if not was_kept:
                self.ledger.keep(job)
            elif is_earlier:
                self.ledger.replace(job)
            if background and peer is not None:
                self.ledger.hold(job, peer)
        return job

    def not_stored(self, handle: bytes) -> None:
        """A job could not be stored: who submitted it was told so, and it is given up unless
        a worker has it."""
        job = self.jobs.get(handle)
        if job is not None and job.state is not JobState.RUNNING:
            self.fail(job)

    def grab(self, peer: Peer) -> Job | None:
        """Give a worker its next job: the highest priority of all its functions, and of
        equals the function whose turn it is.  None if there is none."""
        was_for = self.wakes.heard(peer, self.now)
        job = self.take(peer)
        if was_for is not None:
            self.wakes.wake(was_for, self.now)  # it may have taken another one's job
        return job

    def running(self, peer: Peer, handle: bytes) -> Job | None:
        """The job that a worker reports about; None: it has taken too long, and what the worker
        says of it now is nothing to anybody.

        Raises:
            Refused: the worker does not have such a job.
        """
        job = peer.running.get(handle)
        if job is None and handle != peer.late:
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
        self.remove(job)

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
        for job in self.timers.due(wall):
            del job.function.scheduled[job.handle]
            self.place(job, 0.0)
        for job in self.timers.late(now):
            job.function.timed_out += 1
            if job.worker is not None:
                job.worker.late = job.handle
            if self.rules.on_timeout == "retry":
                self.give_back(job)
            else:
                self.fail(job)
        self.wakes.pass_over(now)


def _age(job: Job) -> tuple[float, int]:
    """The older a job is, the less."""
    return job.created, int(job.handle.rpartition(b":")[2])
