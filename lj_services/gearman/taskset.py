"""Tasks run in parallel: over all servers at the same time, by one thread.

Each task goes to the first server of its order (`placement`) that takes it.  Equal
tasks of one set are submitted once.  When a server goes away, what was with it goes to
the next one if that does no harm: a task with a unique key (the servers make one job
of equal ones), or one with retries left.  Others fail with `ConnectionLost`, for their
function may have been called already.
"""

from __future__ import annotations

import contextlib
import heapq
import selectors
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from lj_services.daemon import HostPort
from lj_services.gearman.client_errors import (
    BadAnswer,
    ConnectionLost,
    GearmanError,
    ServerUnreachable,
    TaskException,
    TaskFailed,
    TaskRefused,
    TaskTimeout,
)
from lj_services.gearman.connection import Connection
from lj_services.gearman.flight import Event, Flight, Submission, What
from lj_services.gearman.protocol import PacketType
from lj_services.gearman.tasks import Task

if TYPE_CHECKING:
    from lj_services.gearman.client import Client

WINDOW: Final = 500
"""Jobs that one server is given at once by a set; more wait their turn."""


class _Lane:
    """One server's part of a run: its connection, what is there and what waits for it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.flight = Flight()
        self.backlog: deque[Submission] = deque()

    def fill(self) -> None:
        while self.backlog and len(self.flight) < WINDOW:
            submission = self.backlog.popleft()
            if not submission.waiting:
                continue
            kind, args = submission.leader.submit_packet()
            self.connection.put(kind, *args)
            self.flight.submitted(submission)
            for task in submission.tasks:
                task.submits += 1


class TaskSet:
    """Tasks that are run together; made by `Client.task_set`, used by one thread."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.tasks: list[Task] = []
        """All that were added, in order."""
        self._new: deque[Submission] = deque()
        self._equal: dict[tuple[object, ...], Submission] = {}
        self._lanes: dict[HostPort, _Lane] = {}
        self._selector: selectors.BaseSelector | None = None
        self._open: set[Task] = set()
        self._limits: list[tuple[float, int, Task]] = []  # a heap; the number breaks ties

    def add(self, function: str, payload: bytes | str = b"", **options: Any) -> Task:
        """Add a task; also from a callback, while the set runs.

        Args:
            function: the function's name.
            payload: its argument.
            options: the other fields of `Task`.

        Raises:
            BadTask: it can't be sent.
        """
        data = payload.encode() if isinstance(payload, str) else payload
        unique = options.pop("unique", b"")
        task = Task(
            function=function,
            payload=data,
            unique=unique.encode() if isinstance(unique, str) else unique,
            **options,
        )
        self.add_task(task)
        return task

    def add_task(self, task: Task) -> None:
        """Add a task that was made before; it must be new."""
        self.tasks.append(task)
        self._open.add(task)
        task.open_tasks = self._open
        if task.timeout_s is not None:
            heapq.heappush(self._limits, (task.timeout_s, len(self.tasks), task))
        if task.key:
            same = (task.function, task.unique, task.key, task.background, task.run_at_s)
            known = self._equal.get(same)
            if known is not None and known.waiting:
                known.tasks.append(task)
                task.submits = known.leader.submits
                if known.handle is not None:
                    task.job = known.leader.job
                return
            self._equal[same] = submission = Submission(task)
        else:
            submission = Submission(task)
        self._new.append(submission)

    def run(self, timeout_s: float | None = None) -> list[Task]:
        """Run until the outcome of every task is known.

        Args:
            timeout_s: longest time for all of them, in seconds; None: for ever.

        Returns:
            The tasks in the order in which they were added; look at `Task.failure`, or
            ask for `Task.value`.
        """
        start = time.monotonic()
        self._selector = selectors.DefaultSelector()
        try:
            while self._open:
                self._place_new()
                for server, lane in list(self._lanes.items()):
                    self._send(server, lane)
                if self._new:
                    continue
                left = self._time_out(start, timeout_s)
                if not self._open or self._new:
                    continue
                for key, _ in self._selector.select(left):
                    self._read(key.data)
        finally:
            self._give_back()
        return self.tasks

    # -- sending -------------------------------------------------------------------

    def _place_new(self) -> None:
        while self._new:
            submission = self._new.popleft()
            if not submission.waiting:
                continue
            reasons: list[str] = []
            for server in self._client.placement.order(submission.leader.key):
                if server in submission.refused_by:
                    continue
                try:
                    self._lane(server).backlog.append(submission)
                    break
                except GearmanError as error:
                    reasons.append(str(error))
            else:
                self._end(submission, ServerUnreachable("; ".join(reasons) or "no server is left"))

    def _lane(self, server: HostPort) -> _Lane:
        lane = self._lanes.get(server)
        if lane is None:
            connection, fresh = self._client.borrow(server)
            lane = self._lanes[server] = _Lane(connection)
            if fresh:
                connection.put(PacketType.OPTION_REQ, b"exceptions")
                lane.flight.asked_option()
            assert self._selector is not None
            self._selector.register(connection, selectors.EVENT_READ, server)
        return lane

    def _send(self, server: HostPort, lane: _Lane) -> None:
        lane.fill()
        try:
            lane.connection.flush()
        except ConnectionLost as error:
            self._lost(server, error)
            return
        wanted = selectors.EVENT_READ
        if lane.connection.wants_write:
            wanted |= selectors.EVENT_WRITE
        assert self._selector is not None
        if self._selector.get_key(lane.connection).events != wanted:
            self._selector.modify(lane.connection, wanted, server)

    # -- receiving -----------------------------------------------------------------

    def _read(self, server: HostPort) -> None:
        lane = self._lanes.get(server)
        if lane is None:
            return  # given up since
        try:
            lane.connection.receive()
            for packet in lane.connection.packets():
                event = lane.flight.received(packet)
                self._client.placement.answered(server)
                if event is not None:
                    self._happened(server, event)
        except (ConnectionLost, BadAnswer) as error:
            self._lost(server, error)

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
        if len(submission.refused_by) < len(self._client.placement.servers):
            self._new.append(submission)
        else:
            said = b" ".join(args).decode(errors="replace")
            self._end(submission, TaskRefused(f"{submission.leader.function}: {said}"))

    # -- ends ----------------------------------------------------------------------

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
        submission.tasks = tasks
        submission.handle = None
        self._new.append(submission)

    def _end(self, submission: Submission, failure: GearmanError) -> None:
        for task in submission.tasks:
            task.failed(failure)

    def _lost(self, server: HostPort, error: GearmanError) -> None:
        lane = self._lanes.pop(server)
        assert self._selector is not None
        self._selector.unregister(lane.connection)
        lane.connection.close()
        self._client.placement.failed(server)
        self._client.forget(server)
        self._new.extend(lane.backlog)  # never sent
        for submission in lane.flight.take_all():
            submission.lost += 1
            left = [task for task in submission.tasks if not task.done]
            # A key bounds the harm of a second submit, the number of servers that of a
            # job which takes every server down.
            keyed = bool(submission.leader.key)
            if left and keyed and submission.lost <= len(self._client.placement.servers):
                self._resubmit(submission, left)
            else:
                self._again(submission, ConnectionLost(str(error)))

    def _time_out(self, start: float, timeout_s: float | None) -> float | None:
        """Give up what took too long; seconds until the next one would, None: never."""
        now = time.monotonic() - start
        late: list[Task] = []
        if timeout_s is not None and now >= timeout_s:
            late += self._open
        while self._limits and (self._limits[0][2].done or self._limits[0][0] <= now):
            late.append(heapq.heappop(self._limits)[2])
        for task in late:
            task.failed(TaskTimeout(f"{task.function}: no result within {now:.3g} s"))
        ends = [limit for limit, _, _ in self._limits[:1]]
        if timeout_s is not None:
            ends.append(timeout_s)
        return max(0.0, min(ends) - now) if ends else None

    def _give_back(self) -> None:
        """Keep connections on which nothing is under way; end the others."""
        for server, lane in self._lanes.items():
            clean = not len(lane.flight) and not lane.connection.wants_write
            if clean:
                self._client.give_back(server, lane.connection)
            else:
                lane.connection.close()
        self._lanes.clear()
        if self._selector is not None:
            with contextlib.suppress(OSError):
                self._selector.close()
            self._selector = None
