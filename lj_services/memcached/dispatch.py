"""From keys to servers and back: who is asked, what happens when a server fails.

Theory of operation
===================

`Dispatcher.ask` takes keys and a way to write a request for some of them.  In each
round it places the keys on the ring without the dead servers, writes one request
for each server that got keys, and runs all these exchanges side by side.  Then:

- answered: the connection goes back to its pool, the server counts as healthy;
- nothing was sent (no connection): the server is left out (`health`), and its
  keys go to the next round, where the ring gives them to a living server; with
  `rehash` off they are faults;
- no answer in time, or one that makes no sense: the server is left out, its keys
  are faults.  They are not sent elsewhere: whether the server carried the command
  out is unknown;
- the server closed a connection that had been idle: that says nothing about the
  server, so commands that may be repeated are, once, on a new connection.

There are no more rounds than servers, and none starts after one whole timeout: so
a call costs at most two timeouts, however many servers are gone.

`accept` of the caller looks at the replies before the connection is used again.
If they don't fit what was asked, nothing from that connection is believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from lj_services.memcached.connection import Exchange, run
from lj_services.memcached.errors import (
    ConnectionLost,
    Fault,
    ProtocolError,
    ServerTimeout,
    ServerUnreachable,
)
from lj_services.memcached.health import Health
from lj_services.memcached.keys import Placed
from lj_services.memcached.pool import Pool
from lj_services.memcached.protocol.reply_parser import Failure, Reply
from lj_services.memcached.rings import Ring

_NONE: frozenset[int] = frozenset()

Build = Callable[[list[int]], tuple[bytes, int]]
"""Positions of keys -> the request for them, and how many closing replies it gets."""

Accept = Callable[[int, list[int], list[Reply]], None]
"""Server, positions of keys, replies: takes them, or raises `ProtocolError`."""

Refuse = Callable[[int | None, list[int], Fault], None]
"""Server (None: none is left), positions of keys, what went wrong."""


class Dispatcher:
    """Sends requests to the servers of a ring; safe for use by many threads at once."""

    def __init__(
        self,
        ring: Ring,
        *,
        connect_timeout_s: float,
        timeout_s: float,
        dead_retry_s: float,
        rehash: bool,
        max_idle_connections: int,
    ) -> None:
        self.ring = ring
        self.health = Health(ring.servers, dead_retry_s)
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._rehash = rehash
        self._pools = [Pool(server, max_idle_connections) for server in ring.servers]

    def locate(self, key: Placed, dead: frozenset[int]) -> int | None:
        """The server for a key while those in `dead` are left out."""
        if self._rehash:
            return self.ring.locate(key.bare, key.pin, dead)
        index = self.ring.locate(key.bare, key.pin)
        return None if index in dead else index

    def ask(
        self,
        keys: Sequence[Placed],
        build: Build,
        accept: Accept,
        refuse: Refuse,
        *,
        repeatable: bool,
    ) -> None:
        """Ask about keys, each at its server; every key ends in `accept` or in `refuse`.

        Args:
            keys: what it is about.
            build: writes the request for one server.
            accept: gets the replies of one server.
            refuse: is told of keys that got no answer.
            repeatable: sending it twice does the same as sending it once.
        """
        dead = self.health.dead()
        waiting: Iterable[int] = range(len(keys))
        give_up_at = time.monotonic() + self._connect_timeout_s + self._timeout_s
        repeated: set[int] = set()
        nobody = ServerUnreachable("all cache servers for the key are left out at the moment")
        for turn in range(len(self._pools) + 1):
            if turn and time.monotonic() >= give_up_at:
                break
            groups, nowhere, dead = self._place(keys, waiting, dead)
            if nowhere:
                refuse(None, nowhere, nobody)
            if not groups:
                return
            again: list[int] = []
            for index, exchange in self._exchange(groups, build):
                positions = groups[index]
                if self._settle(index, exchange, positions, accept):
                    continue
                fault = exchange.error
                assert fault is not None
                if isinstance(fault, ServerUnreachable):
                    dead = dead | {index}
                    again += positions
                    nobody = fault  # if none is left, this tells why
                elif (
                    isinstance(fault, ConnectionLost)
                    and repeatable
                    and index not in repeated
                    and exchange.connection is not None
                    and exchange.connection.used
                ):
                    repeated.add(index)
                    again += positions
                else:
                    refuse(index, positions, fault)
            if not again:
                return
            waiting = again
        refuse(None, list(waiting), nobody)

    def ask_all(self, request: bytes, accept: Accept, refuse: Refuse) -> None:
        """Send the same request, with one closing reply, to every server, dead ones too."""
        groups: dict[int, list[int]] = {index: [] for index in range(len(self._pools))}
        for index, exchange in self._exchange(groups, lambda _positions: (request, 1)):
            if not self._settle(index, exchange, [], accept):
                assert exchange.error is not None
                refuse(index, [], exchange.error)

    def close(self) -> None:
        """Close the idle connections, and those in use when they are done."""
        for pool in self._pools:
            pool.close()

    def _place(
        self, keys: Sequence[Placed], waiting: Iterable[int], dead: frozenset[int]
    ) -> tuple[dict[int, list[int]], list[int], frozenset[int]]:
        """Servers and the keys for each; keys that have none; the servers left out."""
        groups: dict[int, list[int]] = {}
        nowhere: list[int] = []
        claimed: set[int] = set()
        locate = self.ring.locate
        while True:
            skipped = dead if self._rehash else _NONE
            for position in waiting:
                _, bare, pin = keys[position]
                index = locate(bare, pin, skipped)
                if index is None or index in dead:
                    nowhere.append(position)
                elif index in groups:
                    groups[index].append(position)
                else:
                    groups[index] = [position]
            # A server that is due again is tried by one thread; for the others it stays dead.
            again: list[int] = []
            for index in [index for index in groups if index not in claimed]:
                if self.health.claim(index):
                    claimed.add(index)
                else:
                    dead = dead | {index}
                    again += groups.pop(index)
            if not again:
                return groups, nowhere, dead
            waiting = again

    def _exchange(self, groups: dict[int, list[int]], build: Build) -> list[tuple[int, Exchange]]:
        asked: list[tuple[int, Exchange]] = []
        for index, positions in groups.items():
            request, expected = build(positions)
            exchange = Exchange(self.ring.servers[index], request, expected)
            exchange.connection = self._pools[index].take()
            asked.append((index, exchange))
        run(
            [exchange for _, exchange in asked],
            connect_timeout_s=self._connect_timeout_s,
            timeout_s=self._timeout_s,
        )
        return asked

    def _settle(self, index: int, exchange: Exchange, positions: list[int], accept: Accept) -> bool:
        """Hand the replies over and put the connection away; whether there was an answer."""
        connection = exchange.connection
        if exchange.error is None:
            try:
                accept(index, positions, exchange.replies)
            except ProtocolError as error:
                exchange.error = error
        fault = exchange.error
        if fault is None:
            assert connection is not None
            self.health.answered(index)
            if connection.clean and in_step(exchange.replies):
                self._pools[index].give(connection)
            else:
                connection.close()
            return True
        if connection is not None:
            connection.close()
        if isinstance(fault, ServerUnreachable | ServerTimeout | ProtocolError):
            self.health.failed(index, fault)
        return False


def in_step(replies: list[Reply]) -> bool:
    """Whether nothing in the replies says that the server has lost track of the requests.

    SERVER_ERROR is about one command; after ERROR and CLIENT_ERROR what the server took
    for a command may have been part of a value.
    """
    return not any(type(reply) is Failure and reply.kind != "SERVER_ERROR" for reply in replies)
