"""The coordinator between its schedule and its tables: no sockets, no lines.

A `Coordinator` keeps a `Schedule` like the tables in `global` (`poll`), lets workers have what the
schedule picks once the claim is in the table (`get_job`), and frees users whose worker is silent.
All SQL runs on threads; the schedule is touched on the event loop alone.

What can happen between two steps, and why it does no harm:

- the coordinator dies after a claim, before the worker heard of it: the lease runs out, and the
  move is due again;
- it dies while moves run: workers go on, since their leases are renewed in the table, and the next
  coordinator finds them there as running;
- `global` can't be reached, or the lock's connection broke: nothing is given out until the lock is
  held again; if somebody else has it by then, this one ends.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from lj_services.database import DatabaseBusy, DatabaseError
from lj_services.usercluster.coordinator import conditions, metrics
from lj_services.usercluster.coordinator.config import CoordinatorSettings
from lj_services.usercluster.coordinator.desk import Desk, News
from lj_services.usercluster.coordinator.errors import AnotherRules
from lj_services.usercluster.coordinator.jobs import Job, Side
from lj_services.usercluster.coordinator.limits import Limits, changed
from lj_services.usercluster.coordinator.orders import Orders
from lj_services.usercluster.coordinator.scheduling import Instruction, Schedule
from lj_services.usercluster.errors import UserClusterError
from lj_services.usercluster.mover import ClaimLost, Move

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger(__name__)

SETTLE_S = 3.0
"""How long after the start running moves may not have asked yet (see `scheduling`, rule 8)."""
FULL_LOOK_S = 2.0
FULL_LOOK_SHARE = 20
"""A look at all moves is taken so many times as long after the last as that one took."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a worker said of a move last.

    Attributes:
        state: of the move.
        rows, total: worked off in this phase, and how many there are; None: not known.
        speed: rows a second, smoothed.
        behind: dirty rows that wait; None: not known.
        at: the coordinator's clock, in seconds.
    """

    state: str
    rows: int
    total: int | None
    speed: float
    behind: int | None
    at: float


class Coordinator:
    """Keeps schedule and tables in step.

    Args:
        settings: the daemon's.
        desk: its lock is held.
        publish: called with the kind and the text of what happens, for subscribers.
        deposed: called when somebody else rules: this one has to end.
    """

    def __init__(
        self,
        settings: CoordinatorSettings,
        desk: Desk,
        publish: Callable[[str, str], None],
        deposed: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.desk = desk
        self.orders = Orders({}, {})
        self.schedule = Schedule(self.limits)
        self.disks = conditions.Disks(settings.host_silent_s)
        self.replicas = conditions.Replicas(desk.databases)
        self.progress: dict[int, Progress] = {}
        self.finished: deque[tuple[float, str]] = deque(maxlen=10_000)
        """When moves were given back, and in which state."""
        self.unable: str | None = None
        """Why nothing is given out now."""
        self.publish = publish
        self._deposed = deposed
        self._threads = ThreadPoolExecutor(8, "desk")
        self._offset = 0.0
        self._newest = 0
        self._full_look_at = 0.0
        self._settling: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loads_recorded = time.monotonic()
        self._limits: dict[tuple[Side, int], Limits] = {}

    # --- Life ---

    async def start(self) -> None:
        """Read everything, and begin to look.

        Raises:
            DatabaseError: ``global`` can't be reached.
        """
        self.schedule.settling = True
        await self.look_at_all()
        self.replicas.start()
        asyncio.get_running_loop().call_later(SETTLE_S, self._settled)
        metrics.RULING.set(1)

    def _settled(self) -> None:
        self.schedule.settling = False

    async def close(self) -> None:
        """End what is under way, and give the lock back."""
        self.unable = "the coordinator ends"
        metrics.RULING.set(0)
        self.replicas.stop()
        for task in list(self._tasks):
            task.cancel()
        try:
            await self.thread(self.desk.lock.sign_off)
        except DatabaseError as error:
            log.warning("could not sign off: %s", error)
        # What threads are still doing ends before the lock is given back.
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        self.desk.lock.release()

    async def thread(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run what blocks on a thread."""
        call = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def take_settings(self, settings: CoordinatorSettings) -> None:
        """Go by other settings from now on."""
        self.settings = settings
        self._limits.clear()

    def now(self) -> int:
        """The clock of ``global``, in milliseconds, as far as it is known here."""
        return round(time.monotonic() * 1000 + self._offset)

    def limits(self, side: Side, cluster: int) -> Limits:
        """The limits of one side of a cluster: the settings, and the orders over them."""
        key = (side, cluster)
        if key not in self._limits:
            own = self.settings.clusters.get(cluster, self.settings.default)
            base: Limits = getattr(own, side)
            ordered = self.orders.limits.get(f"{side}:{cluster}", {})
            try:
                self._limits[key] = changed(base, ordered)
            except ValueError as error:
                log.error("the orders for %s:%s can't be followed: %s", side, cluster, error)
                self._limits[key] = base
        return self._limits[key]

    # --- Looking ---

    async def poll(self) -> None:
        """One look at the tables."""
        try:
            await self.thread(self.desk.lock.renew)
            if time.monotonic() >= self._full_look_at:
                await self.look_at_all()
            else:
                known = set(self.schedule.running)
                self._take(await self.thread(self.desk.news, self._newest, known))
            lapsed = await self.thread(self.desk.lapsed)
        except AnotherRules as error:
            self._stand_down(str(error))
        except DatabaseBusy as error:
            log.info("the next look will tell: %s", error)  # a deadlock: the lock is still held
        except DatabaseError as error:
            await self._without_global(error)
        else:
            self.unable = None
            metrics.RULING.set(1)
            for move in lapsed:
                if move.move_id not in self._settling:
                    self._settling.add(move.move_id)
                    task = asyncio.create_task(self._settle(move))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        self._weigh()

    async def look_at_all(self) -> None:
        """Read all active moves."""
        began = time.monotonic()
        before = set(self.schedule.jobs)
        news = await self.thread(self.desk.everything)
        self._note_clock(news)
        self.schedule.replace(news.jobs, before, news.now)
        self._newest = max([self._newest, *(job.move_id for job in news.jobs)])
        self._obey(news.orders)
        running = self.schedule.running
        self.progress = {k: progress for k, progress in self.progress.items() if k in running}
        took = time.monotonic() - began
        self._full_look_at = time.monotonic() + max(FULL_LOOK_S, took * FULL_LOOK_SHARE)

    def _take(self, news: News) -> None:
        self._note_clock(news)
        for job in news.jobs:
            self.schedule.learn(job, news.now)
            self._newest = max(self._newest, job.move_id)
        self._obey(news.orders)

    def _note_clock(self, news: News) -> None:
        self._offset = news.now - time.monotonic() * 1000

    def _obey(self, orders: Orders) -> None:
        if orders != self.orders:
            self.orders = orders
            self._limits.clear()
            self.schedule.pauses = orders.pauses
            self.publish("orders", f"{len(orders.pauses)} pauses, {len(orders.limits)} limits")

    async def refresh(self) -> None:
        """Read the orders and all moves now: somebody says that they have changed."""
        await self.look_at_all()

    async def refresh_one(self, move_id: int) -> Job | None:
        """Read one move now; None: there is none."""
        job = await self.thread(self.desk.read, move_id)
        if job is not None:
            self.schedule.learn(job, self.now())
        return job

    async def _without_global(self, error: DatabaseError) -> None:
        self.unable = f"global is out of reach: {error}"
        metrics.RULING.set(0)
        log.warning("nothing is given out: %s", error)
        try:
            term = await self.thread(self.desk.lock.retake)
        except AnotherRules as other:
            self._stand_down(str(other))
        except DatabaseError:
            return
        else:
            log.info("the lock is held again: term %s", term)

    def _stand_down(self, why: str) -> None:
        self.unable = why
        metrics.RULING.set(0)
        self._deposed(why)

    def _weigh(self) -> None:
        now = time.monotonic()
        self.schedule.conditions = conditions.together(self.replicas.lags, self.disks.busiest(now))
        if now - self._loads_recorded > self.settings.record_s and self.unable is None:
            self._loads_recorded = now
            known = self.disks.means(now), self.disks.fullest(now)
            task = asyncio.create_task(self.thread(conditions.record, self.desk.databases, *known))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _settle(self, move: Move) -> None:
        """Free a user, or cross off a move that was cancelled before it began."""
        try:
            job = await self.thread(self.desk.settle, move)
            self.schedule.learn(job, self.now())
            if not job.final:
                metrics.FREED.inc()
                log.warning("%s: its worker is silent; the user was freed", move)
                self.publish("freed", f"move {move.move_id}: userid {move.userid}")
        except ClaimLost:
            pass  # a worker was quicker
        except AnotherRules as error:
            self._stand_down(str(error))
        except (DatabaseError, UserClusterError) as error:
            log.warning("%s can't be settled now: %s", move, error)
        finally:
            self._settling.discard(move.move_id)

    # --- Workers ---

    async def get_job(self, worker: str, gone: Callable[[], bool]) -> tuple[Job, Instruction] | str:
        """What a worker shall do, claimed in its name; or why there is nothing.

        Args:
            worker: its name.
            gone: asked when the claim is made: whether nobody is there any more to hear of it.
        """
        while self.unable is None:
            picked = self.schedule.pick(worker, self.now())
            if isinstance(picked, str):
                return picked
            claimed = await self._claim(picked, worker)
            if claimed is None:
                continue
            if gone():
                # It could not start; nobody need wait for the lease to run out.
                await self._unclaim(claimed)
                return "gone"
            instruction = self.schedule.granted(claimed, self.now())
            metrics.GRANTED.labels(str(claimed.kind)).inc()
            self.publish("granted", f"move {claimed.move_id} to {worker}")
            return claimed, instruction
        return self.unable

    async def _claim(self, picked: Job, worker: str) -> Job | None:
        try:
            return await self.thread(self.desk.claim, picked, worker)
        except (ClaimLost, DatabaseBusy):  # in both cases nothing was claimed
            fresh = await self._read(picked.move_id)
        except AnotherRules as error:
            self.schedule.refused(picked.move_id, None, self.now())
            self._stand_down(str(error))
            return None
        except DatabaseError as error:
            # Whether it was claimed only the table knows.
            log.warning("move %s: %s", picked.move_id, error)
            fresh = await self._read(picked.move_id)
            if fresh is not None and (fresh.owner, fresh.claim) == (worker, picked.claim + 1):
                return fresh
            self.unable = f"global is out of reach: {error}"  # until the next look
        except BaseException:
            self.schedule.refused(picked.move_id, None, self.now())
            raise
        self.schedule.refused(picked.move_id, fresh, self.now())
        return None

    async def _read(self, move_id: int) -> Job | None:
        try:
            return await self.thread(self.desk.read, move_id)
        except DatabaseError:
            return None

    async def _unclaim(self, claimed: Job) -> None:
        try:
            fresh: Job | None = await self.thread(self.desk.unclaim, claimed)
        except (ClaimLost, DatabaseError):
            fresh = claimed
        self.schedule.refused(claimed.move_id, fresh, self.now())

    def reported(
        self,
        move_id: int,
        state: str,
        rows: int,
        total: int | None,
        behind: int | None,
        told: float | None,
    ) -> Instruction:
        """A worker says how far a move is.

        Args:
            move_id: which.
            state: of the move.
            rows, total, behind: see `Progress`.
            told: the rate that the worker goes by; None: any.

        Returns:
            how it shall go on.
        """
        now = time.monotonic()
        before = self.progress.get(move_id)
        speed = 0.0
        if before is not None and before.state == state and now > before.at:
            latest = max(0, rows - before.rows) / (now - before.at)
            speed = latest if not before.speed else 0.7 * before.speed + 0.3 * latest
        if before is None or before.state != state:
            self.publish("state", f"move {move_id} {state}")
        self.progress[move_id] = Progress(state, rows, total, speed, behind, now)
        self.schedule.told(move_id, told)
        return self.schedule.instruct(move_id)

    async def given_back(self, move_id: int) -> Job | None:
        """A worker has done with a move what it could; returns what it is like now."""
        self.progress.pop(move_id, None)
        job = await self.refresh_one(move_id)
        if job is not None:
            self.finished.append((time.monotonic(), job.state))
            metrics.FINISHED.labels(job.state).inc()
            self.publish("finished", f"move {move_id} {job.state}")
        return job
