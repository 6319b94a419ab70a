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
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence

from lj_services.daemon import HostPort
from lj_services.gearman.client_errors import GearmanError
from lj_services.gearman.connection import Connection
from lj_services.gearman.placement import Address, parse_servers
from lj_services.gearman.protocol import MAX_CLIENT_ID, PacketType
from lj_services.gearman.worker_jobs import (
    Ability,
    Job,
    JobFailed,
    JobTimedOut,
    WorkerFunction,
    carry_out,
)
from lj_services.gearman.worker_link import Assignment, Link, State

__all__ = ["Job", "JobFailed", "JobTimedOut", "Worker"]

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_PARENT_CHECK_S = 1.0
SERVER_GRACE_S = 1.0
"""How much longer than the worker the server waits for a function with a time limit: the
worker tells the client why, a server may only give the job to the next worker."""


class _Server:
    """One job server: connected, or due to be tried again."""

    def __init__(self, address: HostPort) -> None:
        self.address = address
        self.connection: Connection | None = None
        self.link = Link()
        self.retry_at = 0.0
        self.pause_s = _FIRST_PAUSE_S


class Worker:
    """One worker; used by one thread, but `stop` may be called from anywhere."""

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
        self._servers = [_Server(address) for address in parse_servers(servers)]
        if any(char.isspace() or char == "\0" for char in client_id):
            raise ValueError(f"the client id {client_id!r} has a blank in it; leave it out")
        self._client_id = client_id
        self._connect_timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._max_pause_s = max_pause_s
        self._abilities: dict[str, Ability] = {}
        self._stopping = threading.Event()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._turn = 0
        self.jobs_done = 0
        """Jobs that ended, well or badly."""

    def register(
        self, name: str, function: WorkerFunction, *, timeout_s: float | None = None
    ) -> None:
        """Offer a function; before `run`.

        Args:
            name: what clients call it.
            function: called with a `Job`; returns bytes, str or None.
            timeout_s: how long it may take, in seconds; None: as long as it takes.  In the
                main thread it is then interrupted by `JobTimedOut`; elsewhere only the
                server gives up on it.
        """
        if timeout_s is not None and timeout_s <= 0:
            raise ValueError(f"timeout_s of {name} is {timeout_s}; it must be more than 0")
        self._abilities[name] = Ability(function, timeout_s)

    def function(
        self, name: str, *, timeout_s: float | None = None
    ) -> Callable[[WorkerFunction], WorkerFunction]:
        """`register` as a decorator."""

        def decorate(function: WorkerFunction) -> WorkerFunction:
            self.register(name, function, timeout_s=timeout_s)
            return function

        return decorate

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
            for server in self._servers:
                self._disconnect(server)
        return self.jobs_done - done_before

    def close(self) -> None:
        """Give back what the worker holds beside its connections; it can't run again."""
        self._wake_read.close()
        self._wake_write.close()

    # -- servers -------------------------------------------------------------------

    def _connect(self) -> None:
        """Try the servers that are due, and offer them the functions."""
        for server in self._servers:
            if server.connection is not None or time.monotonic() < server.retry_at:
                continue
            try:
                server.connection = connection = Connection(server.address, self._connect_timeout_s)
                server.link = Link()
                name = self._client_id or f"{socket.gethostname()}-{os.getpid()}"
                connection.put(PacketType.SET_CLIENT_ID, name.encode()[:MAX_CLIENT_ID])
                for function, ability in self._abilities.items():
                    if ability.timeout_s is None:
                        connection.put(PacketType.CAN_DO, function.encode())
                    else:
                        limit_ms = round((ability.timeout_s + SERVER_GRACE_S) * 1000)
                        connection.put(
                            PacketType.CAN_DO_TIMEOUT, function.encode(), b"%d" % limit_ms
                        )
                connection.flush_all(self._answer_timeout_s)
            except GearmanError as error:
                self._failed(server, error)
            else:
                log.info("offering functions", extra={"server": server.address})

    def _failed(self, server: _Server, error: Exception) -> None:
        again = server.connection is None and server.pause_s > _FIRST_PAUSE_S
        self._disconnect(server)
        # At random, so that all workers of a site don't come back in the same moment.
        pause = server.pause_s * random.uniform(0.5, 1.0)  # noqa: S311
        server.retry_at = time.monotonic() + pause
        server.pause_s = min(server.pause_s * 2, self._max_pause_s)
        level = logging.DEBUG if again else logging.WARNING
        log.log(level, "job server lost, trying again: %s", error)

    def _disconnect(self, server: _Server) -> None:
        if server.connection is not None:
            server.connection.close()
            server.connection = None

    # -- jobs ----------------------------------------------------------------------

    def _work_once(self) -> bool:
        """Do one job of the next server that has one; whether there was one."""
        count = len(self._servers)
        for step in range(count):
            server = self._servers[(self._turn + step) % count]
            if server.connection is None or server.link.state is not State.AWAKE:
                continue
            try:
                assignment = self._grab(server, server.connection)
            except GearmanError as error:
                self._failed(server, error)
                continue
            if assignment is not None:
                # The next server's turn: a busy one shall not starve the others.
                self._turn = (self._turn + step + 1) % count
                self._do(server, server.connection, assignment)
                return True
        return False

    def _grab(self, server: _Server, connection: Connection) -> Assignment | None:
        connection.put(server.link.grab())
        connection.flush_all(self._answer_timeout_s)
        deadline = time.monotonic() + self._answer_timeout_s
        while server.link.state is State.ASKED:
            if not connection.wait(max(0.0, deadline - time.monotonic())):
                raise GearmanError(f"job server {server.address} gave no answer in time")
            connection.receive()
            for packet in connection.packets():
                assignment = server.link.received(packet)
                server.pause_s = _FIRST_PAUSE_S
                if assignment is not None:
                    return assignment
        return None

    def _do(self, server: _Server, connection: Connection, assignment: Assignment) -> None:
        def send(kind: PacketType, *args: bytes) -> None:
            connection.put(kind, *args)
            connection.flush_all(self._answer_timeout_s)

        name = assignment.function.decode(errors="replace")
        job = Job(
            server=server.address,
            handle=assignment.handle,
            function=name,
            unique=assignment.unique,
            payload=assignment.payload,
            send=send,
        )
        ability = self._abilities.get(name)
        try:
            if ability is None:
                raise GearmanError(f"got a job for {name!r}, which was not offered")
            carry_out(job, ability)
            server.link.finished()
        except GearmanError as error:
            self._failed(server, error)
        self.jobs_done += 1

    def _sleep(self, timeout_s: float | None) -> None:
        """Wait until a server has a job, one is due to be tried again, or `stop`."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            limits = [] if timeout_s is None else [timeout_s]
            for server in self._servers:
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
                if server.connection is None:
                    limits.append(max(0.0, server.retry_at - time.monotonic()))
            for key, _ in selector.select(min(limits) if limits else None):
                if key.data is None:
                    self._wake_read.recv(1024)
                else:
                    self._listen(key.data)

    def _listen(self, server: _Server) -> None:
        assert server.connection is not None
        try:
            server.connection.receive()
            for packet in server.connection.packets():
                server.link.received(packet)
        except GearmanError as error:
            self._failed(server, error)
