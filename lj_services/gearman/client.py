"""The Gearman client: what programs import to have functions carried out by workers.

::

    client = Client(["10.0.3.1:4730", "10.0.3.2:4730"])
    html = client.do("render", b"entry 7", unique="render:7", timeout_s=5)

    tasks = client.task_set()
    for userid in friends:
        tasks.add("load_friends", str(userid), retries=1)
    tasks.run(timeout_s=2)
    results = [task.value() for task in tasks.tasks if task.failure is None]

    job = client.submit("mail", b"...", priority=Priority.LOW)
    client.status(job)

A `Client` serves all threads of a process: each run borrows its own connections.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Any, Self, TypeVar, Unpack

from lj_services.daemon import HostPort
from lj_services.gearman import questions
from lj_services.gearman.client_errors import GearmanError
from lj_services.gearman.connection import Connection
from lj_services.gearman.placement import Address, Placement, parse_servers
from lj_services.gearman.protocol import Packet
from lj_services.gearman.questions import Asking, Question
from lj_services.gearman.tasks import JobHandle, JobStatus, Priority, SubmitOptions, Task
from lj_services.gearman.taskset import TaskSet

__all__ = ["Client", "JobHandle", "JobStatus", "Priority"]

T = TypeVar("T")


class Client:
    """Job servers as one; safe for use by many threads at once, and across fork."""

    def __init__(
        self,
        servers: Sequence[Address],
        *,
        connect_timeout_s: float = 1.0,
        answer_timeout_s: float = 5.0,
        dead_retry_s: float = 5.0,
        max_idle_connections: int = 8,
    ) -> None:
        """Nothing is connected before it is used.

        Args:
            servers: ``HOST:PORT`` or ``HOST``; in the same order in every program that is
                to share unique keys.
            connect_timeout_s: longest wait for a connection, in seconds.
            answer_timeout_s: longest wait for a server's own answers (to `submit`,
                `status` and `ping`), in seconds.
            dead_retry_s: how long a server that failed is tried last, in seconds.
            max_idle_connections: how many connections are kept to each server.

        Raises:
            ValueError: no servers, one is there twice, or one is no address.
        """
        self.placement = Placement(parse_servers(servers), dead_retry_s=dead_retry_s)
        self._connect_timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._max_idle = max_idle_connections
        self._lock = threading.Lock()
        self._idle: dict[HostPort, list[Connection]] = {}
        self._pid = os.getpid()

    @property
    def servers(self) -> tuple[HostPort, ...]:
        """All servers, living or not."""
        return self.placement.servers

    # -- tasks ---------------------------------------------------------------------

    def task_set(self) -> TaskSet:
        """An empty set of tasks to run in parallel."""
        return TaskSet(self)

    def do(self, function: str, payload: bytes | str = b"", **options: Any) -> bytes:
        """Call a function and wait for its result.

        Args:
            function: its name.
            payload: its argument.
            options: the other fields of `Task`: ``unique``, ``priority``, ``timeout_s``,
                ``retries``, and callbacks for what comes before the result.

        Raises:
            TaskException: the function raised.
            TaskFailed: the worker said that it failed.
            TaskTimeout: no result within ``timeout_s`` seconds.
            TaskRefused: the servers don't take it.
            ConnectionLost: the server went away in the middle.
            ServerUnreachable: no server can be reached.
            BadTask: it can't be sent.
        """
        tasks = self.task_set()
        task = tasks.add(function, payload, **options)
        tasks.run()
        return task.value()

    def submit(
        self,
        function: str,
        payload: bytes | str = b"",
        **options: Unpack[SubmitOptions],
    ) -> JobHandle:
        """Leave a job with a server and return as soon as it has it.

        Args:
            function: the function's name.
            payload: its argument.
            options: as `SubmitOptions` has them.

        Raises:
            GearmanError: as of `do`.  After `ConnectionLost` and `TaskTimeout` the server
                may have it or not.
        """
        tasks = self.task_set()
        task = Task.call(
            function,
            payload,
            background=True,
            timeout_s=self._answer_timeout_s,
            **options,
        )
        tasks.add_task(task)
        tasks.run()
        return task.where()

    # -- questions -----------------------------------------------------------------

    def status(self, job: JobHandle) -> JobStatus:
        """What the job's server knows of it.

        Raises:
            ServerUnreachable: that server is away.
            ConnectionLost: it went away, or gave no answer in time.
            BadAnswer: its answer makes no sense.
        """
        return self._answer(questions.status(job))

    def status_of_unique(self, unique: bytes | str) -> JobStatus:
        """What is known of the job with a unique key, whatever its function.

        The servers are asked in the order in which a task with that key tries them, until
        one knows it.

        Raises:
            GearmanError: as of `status`, if no server answers.
        """
        return self._answer(questions.status_of_unique(self.placement, unique))

    def ping(self, server: HostPort) -> float:
        """Seconds that a server takes to answer.

        Raises:
            GearmanError: as of `status`.
        """
        start = time.monotonic()
        self._answer(questions.ping(server))
        return time.monotonic() - start

    def _answer(self, asking: Asking[T]) -> T:
        try:
            question = next(asking)
            while True:
                try:
                    packet = self._ask(question)
                except GearmanError as error:
                    question = asking.throw(error)
                else:
                    question = asking.send(packet)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _ask(self, question: Question) -> Packet:
        connection = Connection(question.server, self._connect_timeout_s)
        try:
            connection.put(question.kind, *question.args)
            connection.flush_all(self._answer_timeout_s)
            deadline = time.monotonic() + self._answer_timeout_s
            while connection.wait(max(0.0, deadline - time.monotonic())):
                connection.receive()
                for packet in connection.packets():
                    return question.answered(packet)
        finally:
            connection.close()
        raise question.unanswered(self._answer_timeout_s)

    # -- connections ---------------------------------------------------------------

    def borrow(self, server: HostPort) -> tuple[Connection, bool]:
        """A connection for one run, and whether it is new.

        Raises:
            ServerUnreachable: there is none to be had.
        """
        with self._lock:
            if self._pid != os.getpid():  # the parent of this process uses those
                self._idle.clear()
                self._pid = os.getpid()
            idle = self._idle.get(server, [])
            while idle:
                connection = idle.pop()
                if not connection.wait(0):
                    return connection, False
                connection.close()  # it was closed, or says what nobody asked for
        return Connection(server, self._connect_timeout_s), True

    def give_back(self, server: HostPort, connection: Connection) -> None:
        """Keep a connection on which nothing is under way."""
        with self._lock:
            idle = self._idle.setdefault(server, [])
            if len(idle) < self._max_idle:
                idle.append(connection)
                return
        connection.close()

    def forget(self, server: HostPort) -> None:
        """Close the connections that are kept to a server."""
        with self._lock:
            idle = self._idle.pop(server, [])
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close all connections.  A closed client can still be used."""
        for server in self.servers:
            self.forget(server)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
