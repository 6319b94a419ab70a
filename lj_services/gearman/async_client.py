"""The Gearman client for asyncio: one connection to each server for all calls of a program.

::

    async with AsyncClient(["10.0.3.1:4730", "10.0.3.2:4730"]) as client:
        html = await client.do("render", b"entry 7", unique="render:7", timeout_s=5)

        tasks = client.task_set()
        for userid in friends:
            tasks.add("load_friends", str(userid), retries=1)
        await tasks.run(timeout_s=2)

        job = await client.submit("mail", b"...", priority=Priority.LOW)
        await client.status(job)

It decides as `Client` does (`client_session`), with one difference: all its calls are in
one session.  Equal tasks that are under way at the same time are therefore submitted once,
whoever of the program's coroutines made them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Self, TypeVar, Unpack

from lj_services.daemon import HostPort
from lj_services.gearman import questions
from lj_services.gearman.async_connection import AsyncConnection
from lj_services.gearman.client_errors import ConnectionLost, GearmanError, TaskTimeout
from lj_services.gearman.client_session import ClientSession, Lane
from lj_services.gearman.placement import Address, Placement, parse_servers
from lj_services.gearman.protocol import Packet
from lj_services.gearman.questions import Asking, Question
from lj_services.gearman.tasks import JobHandle, JobStatus, Priority, SubmitOptions, Task

__all__ = ["AsyncClient", "AsyncTaskSet", "JobHandle", "JobStatus", "Priority"]

T = TypeVar("T")

_CALLBACKS: Final = (
    "on_created",
    "on_data",
    "on_warning",
    "on_status",
    "on_complete",
    "on_fail",
)


class AsyncClient:
    """Job servers as one, for the coroutines of one event loop."""

    def __init__(
        self,
        servers: Sequence[Address],
        *,
        connect_timeout_s: float = 1.0,
        answer_timeout_s: float = 5.0,
        dead_retry_s: float = 5.0,
    ) -> None:
        """Nothing is connected before it is used.

        Args:
            servers: ``HOST:PORT`` or ``HOST``; in the same order in every program that is
                to share unique keys.
            connect_timeout_s: longest wait for a connection, in seconds.
            answer_timeout_s: longest wait for a server's own answers (to `submit`,
                `status` and `ping`), in seconds.
            dead_retry_s: how long a server that failed is tried last, in seconds.

        Raises:
            ValueError: no servers, one is there twice, or one is no address.
        """
        self.placement = Placement(parse_servers(servers), dead_retry_s=dead_retry_s)
        self._connect_timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._session = ClientSession(self.placement)
        self._connections: dict[Lane, AsyncConnection] = {}
        self._readers: dict[Lane, asyncio.Task[None]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._woken = False

    @property
    def servers(self) -> tuple[HostPort, ...]:
        """All servers, living or not."""
        return self.placement.servers

    # -- tasks ---------------------------------------------------------------------

    def task_set(self) -> AsyncTaskSet:
        """An empty set of tasks to run in parallel."""
        return AsyncTaskSet(self)

    async def do(self, function: str, payload: bytes | str = b"", **options: Any) -> bytes:
        """Call a function and wait for its result.

        Args:
            function: its name.
            payload: its argument.
            options: the other fields of `Task`.

        Raises:
            GearmanError: as of `Client.do`.
        """
        tasks = self.task_set()
        task = tasks.add(function, payload, **options)
        await tasks.run()
        return task.value()

    async def submit(
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
            GearmanError: as of `Client.submit`.
        """
        tasks = self.task_set()
        task = tasks.add(
            function,
            payload,
            background=True,
            timeout_s=self._answer_timeout_s,
            **options,
        )
        await tasks.run()
        return task.where()

    def take_in(self, task: Task) -> None:
        """Start a task; its time limit begins now.  For `AsyncTaskSet`."""
        limit = task.timeout_s
        now = asyncio.get_running_loop().time()
        self._session.add(task, deadline=None if limit is None else now + limit)
        self._wake()

    def give_up(self, tasks: Sequence[Task], failure: GearmanError) -> None:
        """Wait no longer for some tasks.  For `AsyncTaskSet`."""
        self._session.give_up(tasks, failure)
        self._wake()

    # -- questions -----------------------------------------------------------------

    async def status(self, job: JobHandle) -> JobStatus:
        """What the job's server knows of it.

        Raises:
            GearmanError: as of `Client.status`.
        """
        return await self._answer(questions.status(job))

    async def status_of_unique(self, unique: bytes | str) -> JobStatus:
        """What is known of the job with a unique key, as `Client.status_of_unique`."""
        return await self._answer(questions.status_of_unique(self.placement, unique))

    async def ping(self, server: HostPort) -> float:
        """Seconds that a server takes to answer.

        Raises:
            GearmanError: as of `Client.status`.
        """
        loop = asyncio.get_running_loop()
        start = loop.time()
        await self._answer(questions.ping(server))
        return loop.time() - start

    async def _answer(self, asking: Asking[T]) -> T:
        try:
            question = next(asking)
            while True:
                try:
                    packet = await self._ask(question)
                except GearmanError as error:
                    question = asking.throw(error)
                else:
                    question = asking.send(packet)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def _ask(self, question: Question) -> Packet:
        connection = await AsyncConnection.open(question.server, self._connect_timeout_s)
        try:
            connection.put(question.kind, *question.args)
            async with asyncio.timeout(self._answer_timeout_s):
                while True:
                    for packet in await connection.receive():
                        return question.answered(packet)
        except TimeoutError:
            raise question.unanswered(self._answer_timeout_s) from None
        finally:
            connection.close()

    # -- connections ---------------------------------------------------------------

    def _wake(self) -> None:
        """Let `_pump` run soon: once for all that happens until then."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Carry out what the session has decided."""
        self._woken = False
        session = self._session
        loop = asyncio.get_running_loop()
        deadline = session.expire(loop.time())
        for lane in session.place():
            self._readers[lane] = loop.create_task(self._serve(lane))
        for lane, connection in list(self._connections.items()):
            if lane.open:
                connection.put_all(session.outgoing(lane))
        for lane in session.take_closing():
            self._connections.pop(lane).close()  # which ends its reader
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if deadline is not None:
            self._alarm = loop.call_at(deadline, self._pump)

    async def _serve(self, lane: Lane) -> None:
        """A lane's connection, from its beginning to its end."""
        connection: AsyncConnection | None = None
        try:
            connection = await AsyncConnection.open(lane.server, self._connect_timeout_s)
            self._connections[lane] = connection
            self._session.connected(lane, fresh=True)
            self._wake()
            while lane.open:
                for packet in await connection.receive():
                    self._session.received(lane, packet)
                self._wake()
        except GearmanError as error:
            if connection is None:
                self._session.unreachable(lane, error)
            elif lane.open:
                self._session.lost(lane, error)
        finally:
            if connection is not None:
                connection.close()
            self._connections.pop(lane, None)
            self._readers.pop(lane, None)
        self._wake()

    async def close(self) -> None:
        """Close all connections; tasks that are under way fail with `ConnectionLost`."""
        readers = list(self._readers.values())
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        self._session.fail_all(ConnectionLost("the client was closed"))
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncTaskSet:
    """Tasks that are waited for together; made by `AsyncClient.task_set`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.tasks: list[Task] = []
        """All that were added, in order."""
        self._open: set[Task] = set()
        self._new: list[Task] = []
        self._ended: asyncio.Future[None] | None = None
        self._broken: BaseException | None = None

    def add(self, function: str, payload: bytes | str = b"", **options: Any) -> Task:
        """Add a task; also from a callback, while the set runs.

        Args:
            function: the function's name.
            payload: its argument.
            options: the other fields of `Task`.  Callbacks are called by the event loop
                and must not block; what one raises ends the run.

        Raises:
            BadTask: it can't be sent.
        """
        for name in _CALLBACKS:
            if options.get(name) is not None:
                options[name] = self._guarded(options[name])
        task = Task.call(function, payload, **options)
        self.tasks.append(task)
        self._open.add(task)
        task.watchers.append(self._task_ended)
        if self._ended is None:
            self._new.append(task)
        else:
            self._client.take_in(task)
        return task

    async def run(self, timeout_s: float | None = None) -> list[Task]:
        """Wait until the outcome of every task is known.

        Args:
            timeout_s: longest time for all of them, in seconds; None: for ever.

        Returns:
            The tasks in the order in which they were added; look at `Task.failure`, or
            ask for `Task.value`.
        """
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        try:
            for task in self._new:
                self._client.take_in(task)
            self._new.clear()
            async with asyncio.timeout(timeout_s):
                while self._open and self._broken is None:  # a callback may have added some
                    await self._ended
                    self._ended = loop.create_future()
        except TimeoutError:
            for task in list(self._open):
                late = TaskTimeout(f"{task.function}: no result within {timeout_s:g} s")
                self._client.give_up([task], late)
        finally:
            # Left over only if the run was cancelled, or ended by a callback.
            self._client.give_up(list(self._open), TaskTimeout("the run was ended"))
            self._ended = None
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken
        return self.tasks

    def _task_ended(self, task: Task) -> None:
        self._open.discard(task)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._ended is not None and not self._ended.done() and (not self._open or self._broken):
            self._ended.set_result(None)

    def _guarded(self, callback: Callable[..., object]) -> Callable[..., None]:
        """What a callback raises must not end the client's other calls."""

        def call(*args: Any) -> None:
            try:
                callback(*args)
            except Exception as error:
                self._broken = self._broken or error
                self._end_if_done()

        return call
