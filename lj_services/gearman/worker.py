"""The Gearman worker: offers functions to job servers and carries out what they give.

::

    worker = Worker(["10.0.3.1:4730", "10.0.3.2:4730"])

    @worker.function("resize", timeout_s=30)
    def resize(job: Job) -> bytes:
        job.progress(1, 2)
        return picture(job.payload)

    worker.run()

A worker does one job at a time; run as many as there is work for (`prefork`).  It is
connected to all servers at once and takes jobs from them in turn.  A server that is
away is tried again, with growing pauses, for as long as the worker runs; when it is
back, the worker offers it its functions again.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Sequence

from lj_services.gearman.client_errors import GearmanError
from lj_services.gearman.connection import Connection
from lj_services.gearman.placement import Address
from lj_services.gearman.protocol import PacketType
from lj_services.gearman.worker_jobs import (
    Job,
    JobFailed,
    JobTimedOut,
    WorkerFunction,
    carry_out,
)
from lj_services.gearman.worker_link import Assignment, State
from lj_services.gearman.worker_session import FIRST_PAUSE_S, Offering, ServerState, WorkerSession

__all__ = ["Job", "JobFailed", "JobTimedOut", "Worker"]

log = logging.getLogger(__name__)

_PARENT_CHECK_S = 1.0

Server = ServerState[Connection]


class Worker(Offering[WorkerFunction, Connection]):
    """One worker; used by one thread, but `stop` may be called from anywhere.

    In the main thread a function that takes longer than it may is interrupted by
    `JobTimedOut`; elsewhere only the server gives up on it.
    """

    def __init__(
        self,
        servers: Sequence[Address],
        *,
        client_id: str = "",
        connect_timeout_s: float = 1.0,
        answer_timeout_s: float = 10.0,
        max_pause_s: float = 5.0,
    ) -> None:
        """Nothing is connected before `run`.

        Args:
            servers: ``HOST:PORT`` or ``HOST``.
            client_id: the name that the servers show; default: host and process id.
            connect_timeout_s: longest wait for a connection, in seconds.
            answer_timeout_s: how long a server may take to answer or to take in a result,
                in seconds; then it is connected again.
            max_pause_s: longest pause between attempts to connect, in seconds.

        Raises:
            ValueError: no servers, one is there twice or is no address, or a bad id.
        """
        session = WorkerSession[WorkerFunction, Connection](
            servers, client_id=client_id, max_pause_s=max_pause_s
        )
        super().__init__(session)
        self._connect_timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._stopping = threading.Event()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)

    def stop(self) -> None:
        """Let `run` return after the current job; may be called by signal handlers and threads."""
        self._stopping.set()
        try:
            self._wake_write.send(b"!")
        except OSError:
            return  # full, which wakes as well; or closed, when nothing runs

    def run(
        self,
        *,
        max_jobs: int | None = None,
        idle_timeout_s: float | None = None,
        parent: int | None = None,
    ) -> int:
        """Work until `stop`.

        Args:
            max_jobs: return after so many jobs.
            idle_timeout_s: return after so many seconds without one.
            parent: return, within a second, when this process is no longer the parent.

        Returns:
            How many jobs were done.
        """
        done_before = self.jobs_done
        last = time.monotonic()
        try:
            while not self._stopping.is_set():
                if max_jobs is not None and self.jobs_done - done_before >= max_jobs:
                    break
                if parent is not None and os.getppid() != parent:
                    log.warning("the parent process is gone, stopping")
                    break
                self._connect()
                if self._work_once():
                    last = time.monotonic()
                    continue
                left = None if idle_timeout_s is None else last + idle_timeout_s - time.monotonic()
                if left is not None and left <= 0:
                    break
                if parent is not None:
                    left = _PARENT_CHECK_S if left is None else min(left, _PARENT_CHECK_S)
                self._sleep(left)
        finally:
            for server in self._session.servers:
                if server.connection is not None:
                    server.connection.close()
                    server.connection = None
        return self.jobs_done - done_before

    def close(self) -> None:
        """Give back what the worker holds beside its connections; it can't run again."""
        self._wake_read.close()
        self._wake_write.close()

    # -- servers -------------------------------------------------------------------

    def _connect(self) -> None:
        """Try the servers that are due, and offer them the functions."""
        for server in self._session.due(time.monotonic()):
            try:
                connection = Connection(server.address, self._connect_timeout_s)
                for kind, args in self._session.greet(server, connection):
                    connection.put(kind, *args)
                connection.flush_all(self._answer_timeout_s)
            except GearmanError as error:
                self._failed(server, error)
            else:
                log.info("offering functions", extra={"server": server.address})

    def _failed(self, server: Server, error: Exception) -> None:
        connection = self._session.failed(server, time.monotonic(), error)
        if connection is not None:
            connection.close()

    # -- jobs ----------------------------------------------------------------------

    def _work_once(self) -> bool:
        """Do one job of the next server that has one; whether there was one."""
        while (server := self._session.next_to_ask()) is not None:
            assert server.connection is not None
            try:
                assignment = self._grab(server, server.connection)
            except GearmanError as error:
                self._failed(server, error)
                continue
            if assignment is not None:
                self._do(server, server.connection, assignment)
                return True
        return False

    def _grab(self, server: Server, connection: Connection) -> Assignment | None:
        connection.put(server.link.grab())
        connection.flush_all(self._answer_timeout_s)
        deadline = time.monotonic() + self._answer_timeout_s
        while server.link.state is State.ASKED:
            if not connection.wait(max(0.0, deadline - time.monotonic())):
                raise GearmanError(f"job server {server.address} gave no answer in time")
            connection.receive()
            for packet in connection.packets():
                assignment = server.link.received(packet)
                server.pause_s = FIRST_PAUSE_S
                if assignment is not None:
                    return assignment
        return None

    def _do(self, server: Server, connection: Connection, assignment: Assignment) -> None:
        def send(kind: PacketType, *args: bytes) -> None:
            connection.put(kind, *args)
            connection.flush_all(self._answer_timeout_s)

        job = Job(server.address, assignment, send)
        ability = self._session.abilities.get(job.function)
        self._session.running += 1
        try:
            if ability is None:
                raise GearmanError(f"got a job for {job.function!r}, which was not offered")
            carry_out(job, ability)
            server.link.finished()
        except GearmanError as error:
            self._failed(server, error)
        finally:
            self._session.running -= 1
        self.jobs_done += 1

    def _sleep(self, timeout_s: float | None) -> None:
        """Wait until a server has a job, one is due to be tried again, or `stop`."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            limits = [] if timeout_s is None else [timeout_s]
            for server in self._session.servers:
                if server.connection is not None:
                    try:
                        if server.link.state is State.EMPTY:
                            server.connection.put(server.link.sleep())
                            server.connection.flush_all(self._answer_timeout_s)
                        selector.register(server.connection, selectors.EVENT_READ, server)
                    except GearmanError as error:
                        self._failed(server, error)
                if server.connection is not None and server.link.state is State.AWAKE:
                    limits.append(0.0)  # a NOOP came right behind NO_JOB
            if (retry := self._session.next_retry()) is not None:
                limits.append(max(0.0, retry - time.monotonic()))
            for key, _ in selector.select(min(limits) if limits else None):
                if key.data is None:
                    self._wake_read.recv(1024)
                else:
                    self._listen(key.data)

    def _listen(self, server: Server) -> None:
        assert server.connection is not None
        try:
            server.connection.receive()
            for packet in server.connection.packets():
                server.link.received(packet)
        except GearmanError as error:
            self._failed(server, error)
