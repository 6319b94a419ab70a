"""A client's tasks and its servers, without sockets: what `Client` and `AsyncClient` share.

The driver owns connections, the clock and the waiting; the session owns all decisions.
A turn of a driver::

    for lane in session.place():          connect; then connected() or unreachable()
    for packet in session.outgoing(lane): send it
    session.received(lane, packet)        for each packet that came, or lost(lane, error)
    session.expire(now)                   what took too long; when to look again
    session.take_closing()                lanes whose connections are of no more use

Rules.  A task goes to the first server of its order (`placement`) that takes it.  Equal
tasks are submitted once.  When a server goes away, what was with it goes to the next one
if that does no harm: a task with a unique key (the servers make one job of equal ones),
or one with retries left.  Others fail with `ConnectionLost`, for their function may have
been called already.

A client can't take a job back.  A task that is given up leaves its job on the lane, whose
result may come at any time or never.  A lane with many such jobs is retired: new tasks get
a new one, and when nobody waits for anything on the old one it is closed, which tells the
server that those jobs are not wanted.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from lj_services.daemon import HostPort
from lj_services.gearman.client_errors import (
    ConnectionLost,
    GearmanError,
    ServerUnreachable,
    TaskException,
    TaskFailed,
    TaskRefused,
    TaskTimeout,
)
from lj_services.gearman.flight import Event, Flight, Submission, What
from lj_services.gearman.placement import Placement
from lj_services.gearman.protocol import Outgoing, Packet, PacketType
from lj_services.gearman.tasks import Task

WINDOW: Final = 500
"""Jobs that one server is given at once; more wait their turn."""
RETIRE_AT: Final = 50
"""Jobs that nobody waits for any more on one lane, with which it is retired."""


class Lane:
    """One connection's part of a session: what is under way on it, and what waits for it."""

    def __init__(self, server: HostPort) -> None:
        self.server = server
        self.open = False
        """Whether its connection is there."""
        self.retired = False
        self.flight = Flight()
        self.backlog: deque[Submission] = deque()
        self.greeting = False

    @property
    def clean(self) -> bool:
        """Whether nothing is under way on it, so that its connection can be used again."""
        return self.open and not len(self.flight)


class ClientSession:
    """Tasks on their way through all servers."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._where: dict[Task, Submission] = {}
        self._new: deque[Submission] = deque()
        self._equal: dict[tuple[object, ...], Submission] = {}
        self._lanes: dict[HostPort, Lane] = {}
        self._closing: list[Lane] = []
        self._limits: list[tuple[float, int, Task]] = []  # a heap; the number breaks ties
        self._count = 0

    @property
    def open(self) -> bool:
        """Whether the outcome of a task is still unknown."""
        return bool(self._where)

    @property
    def has_new(self) -> bool:
        """Whether `place` has something to do."""
        return bool(self._new)

    # -- tasks ---------------------------------------------------------------------

    def add(self, task: Task, *, deadline: float | None) -> None:
        """Take in a new task.

        Args:
            task: without an outcome.
            deadline: when it is given up, on the clock that `expire` is told.
        """
        task.watchers.append(self._ended)
        self._count += 1
        if deadline is not None:
            heapq.heappush(self._limits, (deadline, self._count, task))
        if task.key:
            how = (task.run_at_s, task.run_when, task.reducer)
            same = (task.function, task.unique, task.key, task.background, how)
            known = self._equal.get(same)
            if known is not None and known.waiting:
                self._where[task] = known
                known.tasks.append(task)
                task.submits = known.leader.submits
                if known.handle is not None:
                    task.job = known.leader.job
                return
            submission = self._equal[same] = Submission(task, same)
        else:
            submission = Submission(task)
        self._where[task] = submission
        self._new.append(submission)

    def _ended(self, task: Task) -> None:
        submission = self._where.pop(task)
        submission.ended += 1
        if (
            submission.ended == len(submission.tasks)
            and submission.same is not None
            and self._equal.get(submission.same) is submission
        ):
            del self._equal[submission.same]

    def give_up(self, tasks: Iterable[Task], failure: GearmanError) -> None:
        """Wait no longer for some tasks; those that have an outcome keep it."""
        for task in list(tasks):
            submission = self._where.get(task)
            if submission is None:
                continue
            task.failed(failure)
            lane = submission.lane
            if isinstance(lane, Lane) and not submission.waiting and not lane.retired:
                self._retire_if_full(lane)

    def expire(self, now: float) -> float | None:
        """Give up the tasks whose deadline is over; the next deadline, None: there is none."""
        while self._limits and (self._limits[0][2].done or self._limits[0][0] <= now):
            task = heapq.heappop(self._limits)[2]
            limit = f"no result within {task.timeout_s:g} s"
            self.give_up([task], TaskTimeout(f"{task.function}: {limit}"))
        return self._limits[0][0] if self._limits else None

    # -- lanes ---------------------------------------------------------------------

    def place(self) -> list[Lane]:
        """Put new tasks on lanes; those lanes that need a connection."""
        wanted: list[Lane] = []
        while self._new:
            submission = self._new.popleft()
            if not submission.waiting:
                continue
            for server in self._placement.order(submission.leader.key):
                if server in submission.refused_by or server in submission.unreachable:
                    continue
                lane = self._lanes.get(server)
                if lane is None:
                    lane = self._lanes[server] = Lane(server)
                    wanted.append(lane)
                lane.backlog.append(submission)
                break
            else:
                reasons = "; ".join(submission.unreachable.values()) or "no server is left"
                self._end(submission, ServerUnreachable(reasons))
        return wanted

    def connected(self, lane: Lane, *, fresh: bool) -> None:
        """The lane has a connection.

        Args:
            lane: it.
            fresh: whether nothing was asked on it before.
        """
        lane.open = True
        lane.greeting = fresh

    def unreachable(self, lane: Lane, error: GearmanError) -> None:
        """No connection could be had; its tasks go elsewhere."""
        self._placement.failed(lane.server)
        self._drop(lane)
        for submission in lane.backlog:
            submission.unreachable[lane.server] = str(error)
            self._new.append(submission)

    def outgoing(self, lane: Lane) -> Iterator[Outgoing]:
        """The packets to send on an open lane now."""
        if lane.greeting:
            lane.greeting = False
            lane.flight.asked_option()
            yield PacketType.OPTION_REQ, (b"exceptions",)
        while lane.backlog and len(lane.flight) < WINDOW:
            submission = lane.backlog.popleft()
            if not submission.waiting:
                continue
            packet = submission.leader.submit_packet()
            submission.lane = lane
            lane.flight.submitted(submission)
            for task in submission.tasks:
                task.submits += 1
            yield packet

    def received(self, lane: Lane, packet: Packet) -> None:
        """Take in a packet.

        Raises:
            BadAnswer: it makes no sense; the lane is `lost` then.
        """
        event = lane.flight.received(packet)
        self._placement.answered(lane.server)
        if event is not None:
            self._happened(lane.server, event)
        if lane.retired:
            self._close_if_unwanted(lane)

    def lost(self, lane: Lane, error: GearmanError) -> None:
        """The connection is gone."""
        if len(lane.flight) or lane.backlog:
            self._placement.failed(lane.server)
        self._drop(lane)
        for submission in lane.backlog:  # never sent
            submission.unreachable.clear()
            self._new.append(submission)
        for submission in lane.flight.take_all():
            submission.lost += 1
            left = [task for task in submission.tasks if not task.done]
            # A key bounds the harm of a second submit, the number of servers that of a
            # job which takes every server down.
            keyed = bool(submission.leader.key)
            if left and keyed and submission.lost <= len(self._placement.servers):
                self._resubmit(submission, left)
            else:
                self._again(submission, ConnectionLost(str(error)))

    def take_closing(self) -> list[Lane]:
        """Lanes whose connections are to be closed; each is named once."""
        closing, self._closing = self._closing, []
        return closing

    def fail_all(self, failure: GearmanError) -> None:
        """End all tasks and forget all lanes, whose connections are closed."""
        tasks = list(self._where)
        self._new.clear()
        self._lanes.clear()
        self._closing.clear()
        for task in tasks:
            task.failed(failure)

    def reset(self) -> None:
        """Forget everything; what was under way has no outcome."""
        self._where.clear()
        self._new.clear()
        self._equal.clear()
        self._lanes.clear()
        self._closing.clear()
        self._limits.clear()

    def _drop(self, lane: Lane) -> None:
        lane.open = False
        if self._lanes.get(lane.server) is lane:
            del self._lanes[lane.server]

    def _retire_if_full(self, lane: Lane) -> None:
        if lane.flight.unwanted() >= RETIRE_AT:
            lane.retired = True
            del self._lanes[lane.server]
            self._new.extend(lane.backlog)
            lane.backlog.clear()
            self._close_if_unwanted(lane)

    def _close_if_unwanted(self, lane: Lane) -> None:
        if lane.open and lane.flight.unwanted() == len(lane.flight):
            lane.open = False
            lane.flight.take_all()
            self._closing.append(lane)

    # -- what happens to jobs --------------------------------------------------------

    def _happened(self, server: HostPort, event: Event) -> None:
        submission = event.submission
        match event.what:
            case What.CREATED:
                for task in submission.tasks:
                    task.created(server, event.args[0])
            case What.DATA:
                for task in submission.tasks:
                    task.received(event.args[0])
            case What.WARNING:
                for task in submission.tasks:
                    task.warned(event.args[0])
            case What.STATUS:
                for task in submission.tasks:
                    task.progressed(*event.args)
            case What.COMPLETE:
                for task in submission.tasks:
                    task.completed(event.args[0])
            case What.FAIL:
                name = submission.leader.function
                self._again(submission, TaskFailed(f"{name}: the worker said that it failed"))
            case What.EXCEPTION:
                text = event.args[0].decode(errors="replace").strip()
                last = text.rpartition("\n")[2]
                failure = TaskException(f"{submission.leader.function}: {last}", event.args[0])
                self._again(submission, failure)
            case What.REFUSED:
                submission.refused_by.add(server)
                self._refused(submission, event.args)

    def _refused(self, submission: Submission, args: tuple[bytes, ...]) -> None:
        for task in submission.tasks:
            task.submits -= 1  # no server took it
        if len(submission.refused_by) < len(self._placement.servers):
            submission.lane = None
            self._new.append(submission)
        else:
            said = b" ".join(args).decode(errors="replace")
            self._end(submission, TaskRefused(f"{submission.leader.function}: {said}"))

    def _again(self, submission: Submission, failure: GearmanError) -> None:
        """Submit once more for the tasks that have retries left; the others have failed."""
        left = [task for task in submission.tasks if not task.done]
        stay = [task for task in left if task.submits <= task.retries]
        for task in left:
            if task not in stay:
                task.failed(failure)
        if stay:
            self._resubmit(submission, stay)

    def _resubmit(self, submission: Submission, tasks: list[Task]) -> None:
        for task in tasks:
            task.parts.clear()
            task.job = None
        submission.again(tasks)
        self._new.append(submission)

    def _end(self, submission: Submission, failure: GearmanError) -> None:
        for task in submission.tasks:
            task.failed(failure)
