"""Which connection to which node takes which request, and when to open more.

Theory of operation
===================

There is no turn and no weight: whatever connection is free takes the next request, so a node
that is quick, or has more processes, takes more.  A request that finds no free connection
waits in a queue, and connections are opened until there are as many on the way as requests
wait, plus ``connect_ahead``; each that becomes free takes the request whose turn it is.

- Where a pool is weighted (`weighing`) or a service sticky (`sticking`), these say to which
  node; a connection still takes whatever request it may.
- At most `MOST_AT_ONCE` connections are opened in one round, to nodes in random order; to one
  that has not proved itself only one at a time.
- A free connection that nobody needs is kept up to ``backend_persist_cache`` with
  ``persist_backend``; the one that was used last is used first, so that the others run out.
- A change of the pool makes a new generation; connections of an old one end after their
  request.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.nodes import Node
from lj_services.perlbal.proxy.opening import Opener
from lj_services.perlbal.proxy.queues import Queues
from lj_services.perlbal.proxy.sticking import Sticking
from lj_services.perlbal.proxy.weighing import Weights
from lj_services.perlbal.service import BaseRole, Service

if TYPE_CHECKING:
    from lj_services.perlbal.http.head import ResponseHead
    from lj_services.perlbal.pools import Pool
    from lj_services.perlbal.proxy.backend import Backend
    from lj_services.perlbal.proxy.exchange import Exchange

MOST_AT_ONCE: Final = 10
FRESH_S: Final = 5.0
"""How long a connection that was opened in advance, and not verified, is trusted."""

log = logging.getLogger(__name__)


class Connections(Opener, BaseRole):
    """A reverse proxy's connections to nodes, and the requests that wait for them.

    Attributes:
        queues: requests that wait.
        bored: connections to nodes that are free; `pending` are being opened.
        generation: of the pool, and of the service's use of it.
        pool: that the service uses.
        weights: what nodes have to do, where the pool is weighted.
        sticking: which node a client goes to, where the service is sticky.
        special: whether responses must be looked at before they are passed on.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.queues = Queues()
        self.bored: list[Backend] = []
        self.pending: set[Backend] = set()
        self.generation = 0
        self.pool: Pool | None = None
        self.weights: Weights | None = None
        self.sticking = Sticking()
        self.special = False
        self._pending_by_node: Counter[Node] = Counter()
        self._pool_generation = -1
        self._closed = False

    def spawn(self) -> None:
        """Open connections, as many as are wanted and may be opened now."""
        pool = self.pool
        if pool is None or self._closed:
            return
        self.notice()
        bound = 0
        if len(self.queues) > self.queues.free:
            bound = self._spawn_bound()
            self._serve_released()
        # Who is connected, or comes by a selector, is served whether it is enabled or not.
        serving = self.service.enabled and not self.balancer.draining
        ahead = self.parameters.connect_ahead if serving else 0
        want = self.queues.free + ahead - len(self.bored) - (len(self.pending) - bound)
        if want <= 0:
            return
        want = min(want, MOST_AT_ONCE)
        nodes = [self.balancer.nodes.get(address) for address in pool.shuffled()]
        if self.weights is not None:
            nodes = self.weights.order(nodes)
        opened = True
        while want and opened:
            opened = False
            for node in nodes:
                if want and self._open(node):
                    want -= 1
                    opened = True

    def _spawn_bound(self) -> int:
        """Open connections for requests that are for one node; returns how many are on the way."""
        on_the_way = 0
        for node, waiting in self.queues.bound():
            if not self.sticking.has(node) or not node.usable(self.balancer.now):
                self.queues.release(node)
                continue
            while self._pending_by_node[node] < min(waiting, MOST_AT_ONCE) and self._open(node):
                pass
            on_the_way += min(waiting, self._pending_by_node[node])
        return on_the_way

    def _serve_released(self) -> None:
        """Give requests that no longer wait for a node of theirs to connections that are free."""
        now = self.balancer.now
        while self.queues.free and self.bored:
            backend = self.take_bored(None, now)
            exchange = None if backend is None else self.queues.pop(now, backend.node)
            if backend is not None and exchange is not None:
                self._assign(backend, exchange)

    def _open(self, node: Node) -> bool:
        """Open a connection to a node; False if there may be none now."""
        most = MOST_AT_ONCE if node.proven else 1
        if not node.usable(self.balancer.now) or self._pending_by_node[node] >= most:
            return False
        self.pending.add(self.open(self, node))
        self._pending_by_node[node] += 1
        return True

    def notice(self) -> None:
        """Take other nodes if the pool has changed."""
        pool = self.pool
        if pool is None or pool.generation == self._pool_generation:
            return
        self._pool_generation = pool.generation
        self.generation += 1
        weights = {self.balancer.nodes.get(a): weight for a, weight in pool.weights().items()}
        self.weights = Weights(weights) if pool.weighted else None
        self.sticking.use(weights)

    def take_bored(self, node: Node | None, now: float) -> Backend | None:
        """A free connection for a request, None without any.

        Args:
            node: the only one that will do; None: any.
            now: loop time.
        """
        bored = self.bored
        if bored and node is None and self.weights is not None:
            self._lightest_last(self.weights)
        for index in range(len(bored) - 1, -1, -1):
            backend = bored[index]
            if node is None or backend.node is node:
                del bored[index]
                if backend.fit(now):
                    return backend
                backend.close()
        return None

    def _lightest_last(self, weights: Weights) -> None:
        """Order free connections: that to the node with the least to do is taken first.

        If that node has none, one is opened for the next request.
        """
        pool = self.pool
        if pool is None or not self.parameters.persist_backend:
            return
        order = weights.order(map(self.balancer.nodes.get, pool.nodes))
        place = {node: -number for number, node in enumerate(order)}
        self.bored.sort(key=lambda backend: place.get(backend.node, -len(place)))
        now = self.balancer.now
        first = next((node for node in order if node.usable(now)), None)
        if first is None or self.bored[-1].node is first or self._pending_by_node[first]:
            return
        self._open(first)

    def connected(self, backend: Backend) -> None:
        """A node has accepted a connection."""
        node = backend.node
        self.accepted(backend)
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
        if self.pending:
            self._no_longer_pending(backend)
        if self.weights is not None:
            self.weights.ended(backend)
        now = self.balancer.now
        if backend.uses and not (self.parameters.persist_backend and backend.fit(now)):
            backend.close()
            return
        exchange = self.queues.pop(now, backend.node) if self.queues.waiting else None
        if exchange is not None:
            self._assign(backend, exchange)
            if self.queues.waiting:
                self.spawn()
            return
        backend.state = "bored"
        keep = self.parameters.connect_ahead
        if self.parameters.persist_backend:
            keep += self.parameters.backend_persist_cache
        if self._kept(backend) < keep and not self._closed:
            self.bored.append(backend)
        else:
            backend.close()

    def _kept(self, backend: Backend) -> int:
        """How many free connections there are; to the same node, if it matters to which."""
        if self.weights is None and not self.sticking.wanted:
            return len(self.bored)
        return sum(other.node is backend.node for other in self.bored)

    def _no_longer_pending(self, backend: Backend) -> None:
        if backend in self.pending:
            self.pending.discard(backend)
            self._pending_by_node[backend.node] -= 1

    def forget(self, backend: Backend) -> None:
        """A connection is gone."""
        self._no_longer_pending(backend)
        self.gone(backend)
        if self.weights is not None:
            self.weights.ended(backend)
        if backend in self.bored:
            self.bored.remove(backend)

    def _assign(self, backend: Backend, exchange: Exchange) -> None:
        if self.pool is not None:
            self.pool.used[backend.node.address] += 1
        if self.weights is not None:
            self.weights.began(backend)
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
        self.abort_all()

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
