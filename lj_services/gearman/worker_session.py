"""A worker's functions and servers, without sockets: what `Worker` and `AsyncWorker` share.

The driver owns connections, the clock and the calls of functions.  The session decides
which servers are due to be connected, what they are told first, and which one is asked
for a job next.  It never asks for more jobs than may be done at once: an answer that is
still due counts as one, for any server may answer with a job.
"""

from __future__ import annotations

import logging
import os
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from lj_services.daemon import HostPort
from lj_services.gearman.placement import Address, parse_servers
from lj_services.gearman.protocol import MAX_CLIENT_ID, Outgoing, PacketType
from lj_services.gearman.worker_jobs import Ability
from lj_services.gearman.worker_link import Link, State

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
SERVER_GRACE_S = 1.0
"""How much longer than the worker the server waits for a function with a time limit: the
worker tells the client why, a server may only give the job to the next worker."""

F = TypeVar("F", bound=Callable[..., object])
C = TypeVar("C")


class ServerState(Generic[C]):
    """One job server: connected, or due to be tried again."""

    def __init__(self, address: HostPort) -> None:
        self.address = address
        self.connection: C | None = None
        """The driver's."""
        self.link = Link()
        self.retry_at = 0.0
        self.pause_s = FIRST_PAUSE_S


class WorkerSession(Generic[F, C]):
    """A worker's side of the conversations with all its servers."""

    def __init__(
        self, servers: Sequence[Address], *, client_id: str, max_pause_s: float, at_once: int = 1
    ) -> None:
        """
        Args:
            servers: ``HOST:PORT`` or ``HOST``.
            client_id: the name that the servers show; empty: host and process id.
            max_pause_s: longest pause between attempts to connect, in seconds.
            at_once: how many jobs may be done at the same time.

        Raises:
            ValueError: no servers, one is there twice or is no address, or a bad id.
        """
        self.servers = [ServerState[C](address) for address in parse_servers(servers)]
        if any(char.isspace() or char == "\0" for char in client_id):
            raise ValueError(f"the client id {client_id!r} has a blank in it; leave it out")
        if at_once < 1:
            raise ValueError(f"at_once is {at_once}; it must be 1 or more")
        self._client_id = client_id
        self._max_pause_s = max_pause_s
        self.at_once = at_once
        """How many jobs may be done at the same time; may become less for a while."""
        self._most = at_once
        self._turn = 0
        self.abilities: dict[str, Ability[F]] = {}
        self.running = 0
        """Jobs that are being done."""

    def register(self, name: str, function: F, timeout_s: float | None) -> None:
        """Offer a function; to servers that are connected from now on.

        Raises:
            ValueError: `timeout_s` is not more than 0.
        """
        if timeout_s is not None and timeout_s <= 0:
            raise ValueError(f"timeout_s of {name} is {timeout_s}; it must be more than 0")
        self.abilities[name] = Ability(function, timeout_s)

    # -- servers -------------------------------------------------------------------

    def due(self, now: float) -> list[ServerState[C]]:
        """Servers to connect to."""
        return [
            server
            for server in self.servers
            if server.connection is None and server.retry_at <= now
        ]

    def next_retry(self) -> float | None:
        """When the next server that is away is due; None: all are there."""
        return min((s.retry_at for s in self.servers if s.connection is None), default=None)

    def greet(self, server: ServerState[C], connection: C) -> Iterator[Outgoing]:
        """Take over a new connection; the packets to send on it first."""
        server.connection = connection
        server.link = Link(self._most)
        name = self._client_id or f"{socket.gethostname()}-{os.getpid()}"
        yield PacketType.SET_CLIENT_ID, (name.encode()[:MAX_CLIENT_ID],)
        for function, ability in self.abilities.items():
            if ability.timeout_s is None:
                yield PacketType.CAN_DO, (function.encode(),)
            else:
                limit_ms = round((ability.timeout_s + SERVER_GRACE_S) * 1000)
                yield PacketType.CAN_DO_TIMEOUT, (function.encode(), b"%d" % limit_ms)

    def failed(self, server: ServerState[C], now: float, error: Exception) -> C | None:
        """A server could not be reached or was lost: it is due again after a pause.

        Returns:
            its connection, to be closed.
        """
        again = server.connection is None and server.pause_s > FIRST_PAUSE_S
        connection, server.connection = server.connection, None
        # At random, so that all workers of a site don't come back in the same moment.
        server.retry_at = now + server.pause_s * random.uniform(0.5, 1.0)  # noqa: S311
        server.pause_s = min(server.pause_s * 2, self._max_pause_s)
        level = logging.DEBUG if again else logging.WARNING
        log.log(level, "job server lost, trying again: %s", error)
        return connection

    @property
    def asked(self) -> int:
        """How many servers owe an answer to a grab."""
        return sum(s.connection is not None and s.link.state is State.ASKED for s in self.servers)

    # -- jobs ----------------------------------------------------------------------

    def next_to_ask(self) -> ServerState[C] | None:
        """The server to ask for a job now; None: none, or there is enough to do."""
        count = len(self.servers)
        if self.running + self.asked >= self.at_once:
            return None
        for step in range(count):
            server = self.servers[(self._turn + step) % count]
            if server.connection is not None and server.link.state is State.AWAKE:
                # The next server's turn: a busy one shall not starve the others.
                self._turn = (self._turn + step + 1) % count
                return server
        return None


class Offering(Generic[F, C]):
    """What both workers are from outside: something that functions are registered with."""

    def __init__(self, session: WorkerSession[F, C]) -> None:
        self._session = session
        self.jobs_done = 0
        """Jobs that ended, well or badly."""

    def register(self, name: str, function: F, *, timeout_s: float | None = None) -> None:
        """Offer a function; before `run`.

        Args:
            name: what clients call it.
            function: called with the job; returns bytes, str or None.
            timeout_s: how long it may take, in seconds, after which it is ended as the
                worker's class says; None: as long as it takes.

        Raises:
            ValueError: `timeout_s` is not more than 0.
        """
        self._session.register(name, function, timeout_s)

    def function(self, name: str, *, timeout_s: float | None = None) -> Callable[[F], F]:
        """`register` as a decorator."""

        def decorate(function: F) -> F:
            self.register(name, function, timeout_s=timeout_s)
            return function

        return decorate
