"""Which move goes next, to whom, and how fast: a state that knows no sockets, clock or SQL.

Theory of operation
===================

`Schedule` is a picture of the moves in `global`, and of the operators' orders.  Whoever keeps it
tells it what was read (`replace`, `learn`) and asks: what shall this worker do (`pick`), how may a
move that runs go on (`instruct`), why does one wait (`why`).  What it is wrong about does no harm:
a claim is decided in the database, and a claim that fails corrects the picture.

A move is *running* (a lease on it is alive, or it was just picked), *waiting* (in the queue of its
way: source, destination, kind), or *resting* (not due yet).  The rules:

1. A move is picked when it is due and nobody has it; it counts as running from that moment on.
2. One move of a user runs at a time; the purge of an earlier home waits while the user moves on.
3. On each side of a cluster (as a source, as a destination) only so many moves run; purges are
   counted on the source, by themselves.
4. Nothing is picked in a paused scope; what runs there is to be handed back.
5. Nothing is picked on a cluster that lags or is too busy; what runs there is held.
6. Among what may go, the higher priority goes first, then the older.
7. What puts an end to something half-done (`Kind.MEND`) heeds neither 3 nor 4 nor 5.
8. Rows a second: a move is *told* its share.  What all moves on a side were told is never more
   than the limit there, since a newcomer only gets what nobody has been told, and the others'
   shares shrink when they next ask.  After a restart nobody knows what the running moves were
   told: until they have asked (`settling`) it counts as everything.

Each refusal is a sentence, and `why` gives it to operators: no move waits without a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

from lj_services.usercluster.coordinator.jobs import SIDES, Job, Kind, Side
from lj_services.usercluster.coordinator.limits import Condition, Limits
from lj_services.usercluster.coordinator.picture import Picture, Way, place_of


@dataclass(frozen=True, slots=True)
class Instruction:
    """How a running move goes on.

    Attributes:
        rate: rows a second; 0: not now; None: as fast as it can.
        hand_back: whether it is to be given up by its worker, for later.
        why: the reason for waiting or handing back.
    """

    rate: float | None
    hand_back: bool = False
    why: str = "runs"


class Schedule(Picture):
    """The moves, and who may do what.

    Args:
        limits: of one side of a cluster.
    """

    def __init__(self, limits: Callable[[Side, int], Limits]) -> None:
        super().__init__()
        self.limits = limits
        self.pauses: Mapping[str, str] = {}
        """Scope -> reason."""
        self.conditions: Mapping[int, Condition] = {}
        """Cluster -> how it is."""
        self.settling = False
        """Whether running moves that have not asked yet may have been told anything."""

    # --- Workers ---

    def pick(self, worker: str, now: int) -> Job | str:
        """The move that a worker shall take up now; it is held for them from here on.

        Args:
            worker: who asks.
            now: the clock of ``global``, in milliseconds.

        Returns:
            the move (follow with `granted` or `refused`), or why there is none.
        """
        self._wake(now)
        has = len(self._of_worker.get(worker, ()))
        if has >= self.slots.get(worker, 0):
            return f"{worker} has {has} of {self.slots.get(worker, 0)} moves already"
        best: Job | None = None
        reason = "nothing is due"
        closed: dict[tuple[Side, int, Kind], str | None] = {}
        for way, queue in self._queues.items():
            if not queue or (best is not None and queue[0] > place_of(best)):
                continue
            if (why := self._closed(way, closed)) is not None:
                reason = why
                continue
            for _, move_id in queue:
                job = self._jobs[move_id]
                if best is not None and place_of(job) > place_of(best):
                    break
                if (why := self._barred(job)) is None:
                    best = job
                    break
                reason = why
        if best is None:
            return reason
        self.forget(best.move_id)
        self._jobs[best.move_id] = best
        self._run(best, worker)
        self._told[best.move_id] = 0.0  # nothing yet: `granted` tells
        self._picked.add(best.move_id)
        return best

    def granted(self, job: Job, now: int) -> Instruction:
        """The picked move was claimed for its worker; `job` is what it is like now."""
        self._picked.discard(job.move_id)
        self.learn(job, now)
        self._told[job.move_id] = 0.0
        return self.instruct(job.move_id)

    def refused(self, move_id: int, job: Job | None, now: int) -> None:
        """The picked move could not be claimed; `job` is what it is like, None: not known."""
        known = self._jobs.get(move_id)
        self.forget(move_id)
        if (found := job or known) is not None:
            self.learn(found, now)

    # --- Rules ---

    def _closed(
        self, way: Way, known: dict[tuple[Side, int, Kind], str | None] | None = None
    ) -> str | None:
        """Why no move goes this way at all now."""
        src, dst, kind = way
        if kind in (Kind.MEND, Kind.THAW):
            return None
        if "all" in self.pauses:
            return f"paused: {self.pauses['all']}"
        sides: tuple[tuple[Side, int], ...] = (("src", src), ("dst", dst))
        for side, cluster in sides[:1] if kind is Kind.PURGE else sides:
            if known is None:
                why = self._closed_side(side, cluster, kind)
            elif (side, cluster, kind) in known:
                why = known[side, cluster, kind]
            else:
                why = known[side, cluster, kind] = self._closed_side(side, cluster, kind)
            if why is not None:
                return why
        return None

    def _closed_side(self, side: Side, cluster: int, kind: Kind) -> str | None:
        if (paused := self.pauses.get(f"{side}:{cluster}")) is not None:
            return f"{side}:{cluster} is paused: {paused}"
        limits = self.limits(side, cluster)
        if kind is Kind.PURGE:
            running, most, what = len(self._purging[cluster]), limits.purges, "purges"
        else:
            running, most, what = len(self._on[side, cluster]), limits.moves, "moves"
        if running >= most:
            role = "from" if side == "src" else "to"
            return f"{role} cluster {cluster}: {running} of {most} {what} run"
        condition = self.conditions.get(cluster)
        return None if condition is None else condition.against(cluster, limits)

    def _barred(self, job: Job) -> str | None:
        """Why this one can't go, although its way is open."""
        if job.kind is not Kind.MEND and (why := self.pauses.get(f"move:{job.move_id}")):
            return f"paused: {why}"
        others = self._of_user.get(job.userid, set()) - {job.move_id}
        if others:
            return f"userid {job.userid} is being moved by move {min(others)}"
        return None

    # --- Running moves ---

    def instruct(self, move_id: int) -> Instruction:
        """How a running move goes on; what this tells counts as told."""
        job = self._jobs.get(move_id)
        if job is None or move_id not in self._running or job.kind is Kind.MEND:
            return Instruction(None)
        # A cut-over that has begun is brought to its end; what comes after it is for later.
        if job.kind is not Kind.THAW and (stop := self._stopped(job)) is not None:
            self._told[move_id] = 0.0
            return stop
        rate, why = (None, "runs") if job.kind is Kind.PURGE else self._share(job)
        self._told[move_id] = inf if rate is None else rate
        return Instruction(rate, why=why)

    def _stopped(self, job: Job) -> Instruction | None:
        """Whether a running move must stop where it is, or be handed back."""
        for scope in job.scopes():
            if (paused := self.pauses.get(scope)) is not None:
                return Instruction(0.0, hand_back=True, why=f"{scope} is paused: {paused}")
        for side in SIDES[:1] if job.kind is Kind.PURGE else SIDES:
            cluster = job.cluster(side)
            condition = self.conditions.get(cluster)
            if condition and (why := condition.against(cluster, self.limits(side, cluster))):
                return Instruction(0.0, why=f"held: {why}")
        return None

    def _share(self, job: Job) -> tuple[float | None, str]:
        rate, why = None, "runs"
        for side in SIDES:
            cluster = job.cluster(side)
            limit = self.limits(side, cluster).rows_s
            if not limit:
                continue
            here = self._on[side, cluster]
            told = sum(self._counted(other, limit) for other in here if other != job.move_id)
            share = max(0.0, min(limit / len(here), limit - told))
            if rate is None or share < rate:
                rate = share
                role = "from" if side == "src" else "to"
                why = f"{role} cluster {cluster}: {limit:g} rows/s for {len(here)} moves"
        return rate, why

    def _counted(self, move_id: int, limit: float) -> float:
        """What a running move may be doing at most on a side with this limit."""
        told = self._told.get(move_id)
        if told is None:
            return limit if self.settling else 0.0
        return min(told, limit)

    def told(self, move_id: int, rate: float | None) -> None:
        """A running move says what it was told last: by an earlier coordinator, perhaps."""
        if move_id in self._running and self._told.get(move_id) is None:
            self._told[move_id] = inf if rate is None else rate

    # --- Reports ---

    def why(self, move_id: int, now: int) -> str:
        """Why a move is where it is, in a sentence."""
        job = self._jobs.get(move_id)
        if job is None:
            return "it is over"
        if move_id in self._running:
            return self._why_running(job)
        if job.kind is Kind.THAW:
            return "its worker vanished while the user was held: the user is being freed"
        if job.due_at > now:
            wait_s = (job.due_at - now) / 1000
            if job.kind is Kind.PURGE:
                return f"the earlier home is kept for another {wait_s:.0f} s"
            return f"tried again in {wait_s:.0f} s"
        if (why := self._closed((job.src, job.dst, job.kind)) or self._barred(job)) is not None:
            return why
        if not self.slots:
            return "no worker is connected"
        free = sum(
            max(0, slots - len(self._of_worker.get(worker, ())))
            for worker, slots in self.slots.items()
        )
        if not free:
            return f"all {sum(self.slots.values())} places of the workers are taken"
        return "it is next"

    def _why_running(self, job: Job) -> str:
        told = dict(self._told)
        try:
            return self.instruct(job.move_id).why
        finally:
            self._told = told
