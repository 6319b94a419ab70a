"""Which connection to which node takes which request, and when to open more.

Theory of operation
===================

There is no turn and no weight: whatever connection is free takes the next request, so a node
that is quick, or has more processes, takes more.  A request that finds no free connection
waits in a queue, and connections are opened until there are as many on the way as requests
wait, plus ``connect_ahead``; each that becomes free takes the request whose turn it is.

- At most `MOST_AT_ONCE` connections are opened in one round, to nodes in random order; to one
  that has not proved itself only one at a time.
- A free connection that nobody needs is kept up to ``backend_persist_cache`` with
  ``persist_backend``; the one that was used last is used first, so that the others run out.
- A change of the pool makes a new generation; connections of an old one end after their
  request.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.nodes import Node
from lj_services.perlbal.proxy.backend import Backend
from lj_services.perlbal.proxy.queues import Queues
from lj_services.perlbal.service import BaseRole, Service

if TYPE_CHECKING:
    from lj_services.perlbal.http.head import ResponseHead
    from lj_services.perlbal.pools import Pool
    from lj_services.perlbal.proxy.exchange import Exchange

MOST_AT_ONCE: Final = 10
FRESH_S: Final = 5.0
"""How long a connection that was opened in advance, and not verified, is trusted."""

log = logging.getLogger(__name__)


class Connections(BaseRole):
    """A reverse proxy's connections to nodes, and the requests that wait for them.

    Attributes:
        queues: requests that wait.
        backends: all connections to nodes; `bored` are free, `pending` are being opened.
        generation: of the pool, and of the service's use of it.
        pool: that the service uses.
        special: whether responses must be looked at before they are passed on.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.balancer = service.balancer
        self.parameters = service.parameters
        self.queues = Queues()
        self.backends: set[Backend] = set()
        self.bored: list[Backend] = []
        self.pending: set[Backend] = set()
        self.generation = 0
        self.pool: Pool | None = None
        self.special = False
        self._pending_by_node: Counter[Node] = Counter()
        self._pool_generation = -1
        self._closed = False

    def spawn(self) -> None:
        """Open connections, as many as are wanted and may be opened now."""
        pool = self.pool
        if pool is None or self._closed or not self.service.enabled:
            return
        if pool.generation != self._pool_generation:
            self._pool_generation = pool.generation
            self.generation += 1
        ahead = 0 if self.balancer.draining else self.parameters.connect_ahead
        want = len(self.queues) + ahead - len(self.bored) - len(self.pending)
        if want <= 0:
            return
        want = min(want, MOST_AT_ONCE)
        now = self.balancer.now
        nodes = [self.balancer.nodes.get(address) for address in pool.shuffled()]
        opened = True
        while want and opened:
            opened = False
            for node in nodes:
                most = MOST_AT_ONCE if node.proven else 1
                if want and node.usable(now) and self._pending_by_node[node] < most:
                    self._open(node)
                    want -= 1
                    opened = True

    def _open(self, node: Node) -> None:
        backend = Backend(self, node, self.balancer.now)
        node.attempts += 1
        node.last_attempt = self.balancer.wall
        self.pending.add(backend)
        self.backends.add(backend)
        self.balancer.connections.add(backend)
        self._pending_by_node[node] += 1
        loop = asyncio.get_running_loop()
        backend.connecting = loop.create_task(self._connect(backend))

    async def _connect(self, backend: Backend) -> None:
        address = backend.node.address
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: backend, address.ip, address.port)
        except OSError as error:
            self.forget(backend)
            self.connect_failed(backend, error.strerror or str(error))
        except asyncio.CancelledError:
            self.forget(backend)
            raise

    def connected(self, backend: Backend) -> None:
        """A node has accepted a connection."""
        node = backend.node
        node.connects += 1
        node.last_connect = self.balancer.wall
        if self.parameters.verify_backend and node.unverified_until <= self.balancer.now:
            backend.verify(self.parameters.verify_backend_path)
        else:
            self.free(backend)

    def connect_failed(self, backend: Backend, why: str) -> None:
        """A node could not be connected to, or gave no sign of life."""
        node = backend.node
        pause = node.failed(self.balancer.now)
        log.warning("node left out: %s", why, extra={"node": node.name, "pause_s": pause})
        self.spawn()

    def free(self, backend: Backend) -> None:
        """A connection can take a request."""
        self._no_longer_pending(backend)
        now = self.balancer.now
        if backend.uses and not (self.parameters.persist_backend and backend.fit(now)):
            backend.close()
            return
        exchange = self.queues.pop(now)
        if exchange is not None:
            self._assign(backend, exchange)
            if len(self.queues):
                self.spawn()
            return
        backend.state = "bored"
        keep = self.parameters.connect_ahead
        if self.parameters.persist_backend:
            keep += self.parameters.backend_persist_cache
        if len(self.bored) < keep and not self._closed:
            self.bored.append(backend)
        else:
            backend.close()

    def _no_longer_pending(self, backend: Backend) -> None:
        if backend in self.pending:
            self.pending.discard(backend)
            self._pending_by_node[backend.node] -= 1

    def forget(self, backend: Backend) -> None:
        """A connection is gone."""
        self._no_longer_pending(backend)
        self.backends.discard(backend)
        self.balancer.connections.discard(backend)
        if backend in self.bored:
            self.bored.remove(backend)

    def _assign(self, backend: Backend, exchange: Exchange) -> None:
        if self.pool is not None:
            self.pool.used[backend.node.address] += 1
        backend.assign(exchange)

    # -- time ---------------------------------------------------------------------

    def use_pool(self, pool: Pool | None) -> None:
        """Take nodes from another pool; connections to the old one's end after their request."""
        self.pool = pool
        self.generation += 1
        self._pool_generation = -1

    def give_up_connecting(self, now: float) -> None:
        """Leave out nodes that have not accepted, or not answered OPTIONS, in time."""
        patience_s = self.parameters.backend_connect_timeout
        for backend in [b for b in self.pending if now - b.last_input > patience_s]:
            self.forget(backend)
            backend.state = "closed"
            backend.abort()
            self.connect_failed(backend, "it does not answer")

    def drop_stale(self, now: float) -> None:
        """Close free connections that are not good any more."""
        for backend in [b for b in self.bored if not self._keep(b, now)]:
            backend.close()
            self.bored.remove(backend)

    def _keep(self, backend: Backend, now: float) -> bool:
        """Whether a free connection is still good."""
        fresh = backend.attention or now - backend.created < FRESH_S
        return fresh and backend.fit(now)

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        for backend in list(self.backends):
            backend.abort()

    # -- filled in by `role.ProxyRole` ----------------------------------------------

    def request_backend(self, exchange: Exchange) -> None:
        """Find a connection for a request."""

    def abandon(self, exchange: Exchange) -> None:
        """The client is gone."""

    def take_response(
        self, exchange: Exchange, backend: Backend, response: ResponseHead, rest: bytes
    ) -> bool:
        """Look at a response before it is passed on; whether it is taken care of."""
        raise NotImplementedError

    def lost(self, exchange: Exchange, backend: Backend) -> None:
        """A connection has ended before the response began."""

    def garbage(self, exchange: Exchange, backend: Backend, why: str) -> None:
        """The response is none."""

    def ended(self, exchange: Exchange) -> None:
        """The request is through, one way or the other."""
