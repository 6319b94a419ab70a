"""Tasks run in parallel: over all servers at the same time, by one thread.

What happens to them is decided in `client_session`; here are the connections, and the
waiting for many of them at once.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lj_services.gearman.client_errors import BadAnswer, ConnectionLost, GearmanError, TaskTimeout
from lj_services.gearman.client_session import ClientSession, Lane
from lj_services.gearman.connection import Connection
from lj_services.gearman.tasks import Task

if TYPE_CHECKING:
    from lj_services.gearman.client import Client


class TaskSet:
    """Tasks that are run together; made by `Client.task_set`, used by one thread."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.tasks: list[Task] = []
        """All that were added, in order."""
        self._new: list[Task] = []
        self._session = ClientSession(client.placement)
        self._connections: dict[Lane, Connection] = {}
        self._selector: selectors.BaseSelector | None = None
        self._start: float | None = None

    def add(self, function: str, payload: bytes | str = b"", **options: Any) -> Task:
        """Add a task; also from a callback, while the set runs.

        Args:
            function: the function's name.
            payload: its argument.
            options: the other fields of `Task`.

        Raises:
            BadTask: it can't be sent.
        """
        task = Task.call(function, payload, **options)
        self.add_task(task)
        return task

    def add_task(self, task: Task) -> None:
        """Add a task that was made before; it must be new."""
        self.tasks.append(task)
        if self._start is None:
            self._new.append(task)
        else:
            self._take_in(task, self._start)

    def _take_in(self, task: Task, start: float) -> None:
        limit = task.timeout_s
        self._session.add(task, deadline=None if limit is None else start + limit)

    def run(self, timeout_s: float | None = None) -> list[Task]:
        """Run until the outcome of every task is known.

        Args:
            timeout_s: longest time for all of them, in seconds; None: for ever.

        Returns:
            The tasks in the order in which they were added; look at `Task.failure`, or
            ask for `Task.value`.
        """
        for _ in self.rounds(timeout_s):
            pass
        return self.tasks

    def rounds(self, timeout_s: float | None = None) -> Iterator[None]:
        """`run` step by step: each time that something came, the caller may look at it.

        The servers wait while the caller does something else.  Closing the generator gives
        up what is under way.

        Args:
            timeout_s: longest time for all tasks, in seconds; None: for ever.
        """
        start = self._start = time.monotonic()
        end = None if timeout_s is None else start + timeout_s
        self._selector = selectors.DefaultSelector()
        session = self._session
        try:
            while self._new:
                self._take_in(self._new.pop(0), start)
            while session.open:
                while lanes := session.place():
                    for lane in lanes:
                        self._connect(lane)
                for lane in list(self._connections):
                    self._send(lane)
                left = self._time_out(timeout_s, end)
                for lane in session.take_closing():
                    self._drop(lane)
                if not session.open:
                    break
                for key, _ in self._selector.select(left):
                    self._read(key.data)
                yield
        finally:
            self._start = None
            self._give_back()

    # -- connections ---------------------------------------------------------------

    def _connect(self, lane: Lane) -> None:
        try:
            connection, fresh = self._client.borrow(lane.server)
        except GearmanError as error:
            self._session.unreachable(lane, error)
            return
        self._session.connected(lane, fresh=fresh)
        self._connections[lane] = connection
        assert self._selector is not None
        self._selector.register(connection, selectors.EVENT_READ, lane)

    def _send(self, lane: Lane) -> None:
        connection = self._connections[lane]
        try:
            if lane.open:
                for kind, args in self._session.outgoing(lane):
                    connection.put(kind, *args)
            connection.flush()
        except ConnectionLost as error:
            self._lost(lane, error)
            return
        wanted = selectors.EVENT_READ
        if connection.wants_write:
            wanted |= selectors.EVENT_WRITE
        assert self._selector is not None
        if self._selector.get_key(connection).events != wanted:
            self._selector.modify(connection, wanted, lane)

    def _read(self, lane: Lane) -> None:
        connection = self._connections.get(lane)
        if connection is None:
            return  # given up since
        try:
            connection.receive()
            for packet in connection.packets():
                self._session.received(lane, packet)
        except (ConnectionLost, BadAnswer) as error:
            self._lost(lane, error)

    def _lost(self, lane: Lane, error: GearmanError) -> None:
        self._drop(lane)
        self._client.forget(lane.server)
        self._session.lost(lane, error)

    def _drop(self, lane: Lane) -> None:
        connection = self._connections.pop(lane)
        assert self._selector is not None
        self._selector.unregister(connection)
        connection.close()

    def _time_out(self, timeout_s: float | None, end: float | None) -> float | None:
        """Give up what took too long; seconds until the next one would, None: never.

        0 if there is something to place first.
        """
        now = time.monotonic()
        if end is not None and now >= end:
            open_tasks = [task for task in self.tasks if not task.done]
            for task in open_tasks:
                late = TaskTimeout(f"{task.function}: no result within {timeout_s:g} s")
                self._session.give_up([task], late)
        deadline = self._session.expire(now)
        if self._session.has_new:
            return 0.0
        ends = [moment for moment in (deadline, end) if moment is not None]
        return max(0.0, min(ends) - now) if ends else None

    def _give_back(self) -> None:
        """Keep connections on which nothing is under way; end the others."""
        for lane, connection in self._connections.items():
            if lane.clean and not connection.wants_write:
                self._client.give_back(lane.server, connection)
            else:
                connection.close()
        self._connections.clear()
        self._session.reset()
        if self._selector is not None:
            with contextlib.suppress(OSError):
                self._selector.close()
            self._selector = None
