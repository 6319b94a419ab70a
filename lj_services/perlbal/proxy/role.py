"""The reverse proxy: which connection to which node takes which request, and when to open more.

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

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.nodes import Node
from lj_services.perlbal.proxy import reproxy
from lj_services.perlbal.proxy.backend import Backend
from lj_services.perlbal.proxy.exchange import Exchange
from lj_services.perlbal.proxy.fetching import Reproxier
from lj_services.perlbal.proxy.queues import Priority, Queues
from lj_services.perlbal.proxy.reproxy_cache import Cache
from lj_services.perlbal.service import BaseRole, Service

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.http.head import ResponseHead
    from lj_services.perlbal.pools import Pool

MOST_AT_ONCE: Final = 10
FRESH_S: Final = 5.0
"""How long a connection that was opened in advance, and not verified, is trusted."""

log = logging.getLogger(__name__)


class ProxyRole(BaseRole):
    """A service that passes requests on to nodes.

    Attributes:
        queues: requests that wait.
        backends: all connections to nodes; `bored` are free, `pending` are being opened.
        generation: of the pool, and of the service's use of it.
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
        """The pool that the service uses."""
        self.reproxier = Reproxier(self)
        self.cache = Cache()
        self.special = False
        """Whether responses must be looked at before they are passed on."""
        self._pending_by_node: Counter[Node] = Counter()
        self._pool_generation = -1
        self._closed = False

    # -- requests -----------------------------------------------------------------

    def start(self, client: ClientConnection) -> None:
        """Take a request on."""
        client.kind = "Perlbal::ClientProxy"
        exchange = Exchange(client, self)
        client.exchange = exchange
        client.buffer_up_to(self.parameters.buffer_size)
        hooks = self.service.hooks
        waiting = hooks.by_point
        if "start_proxy_request" in waiting and hooks.run("start_proxy_request", client):
            return
        if self.cache.most and reproxy.from_cache(self, client):
            return
        if self.parameters.high_priority_cookie and self._has_cookie(client):
            exchange.priority = Priority.HIGH
        if "make_high_priority" in waiting and hooks.run("make_high_priority", client):
            exchange.priority = Priority.HIGH
        if "make_low_priority" in waiting and hooks.run("make_low_priority", client):
            exchange.priority = Priority.LOW
        if client.body_complete:
            exchange.ask()

    def _has_cookie(self, client: ClientConnection) -> bool:
        wanted = self.parameters.high_priority_cookie.encode()
        contents = self.parameters.high_priority_cookie_contents
        for pair in client.request.fields.get(b"cookie", b"").split(b";"):
            name, _, value = pair.strip(b" \t").partition(b"=")
            if name == wanted and (contents is None or contents.search(value)):
                return True
        return False

    def request_backend(self, exchange: Exchange) -> None:
        """Find a connection for a request, or let it wait for one."""
        hooks = self.service.hooks
        if "proxy_read_request" in hooks.by_point and hooks.run("proxy_read_request", exchange):
            return
        exchange.asked_at = now = self.balancer.now
        bored = self.bored
        while bored:
            backend = bored.pop()
            if backend.fit(now):
                self._assign(backend, exchange)
                if self.parameters.connect_ahead:
                    self.spawn()
                return
            backend.close()
        limit = self.parameters.queue_max_size
        if limit and len(self.queues) >= limit:
            exchange.drop_spool()
            exchange.client.error(503, "Too many requests are waiting.")
            return
        self.queues.push(exchange)
        self.spawn()

    def _assign(self, backend: Backend, exchange: Exchange) -> None:
        if self.pool is not None:
            self.pool.used[backend.node.address] += 1
        backend.assign(exchange)

    def abandon(self, exchange: Exchange) -> None:
        """The client is gone."""
        self.queues.remove(exchange)
        backend, exchange.backend = exchange.backend, None
        if backend is not None:
            backend.exchange = None
            if backend.state == "tunnel":
                backend.close()
            else:
                backend.abort()
        self.ended(exchange)

    def ended(self, exchange: Exchange) -> None:
        """The request is through, one way or the other."""
        exchange.drop_spool()
        hooks = self.service.hooks
        if "end_proxy_request" in hooks.by_point:
            hooks.run_all("end_proxy_request", exchange)

    # -- connections --------------------------------------------------------------

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
        exchange = self.queues.pop()
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

    # -- what goes wrong ----------------------------------------------------------

    def lost(self, exchange: Exchange, backend: Backend) -> None:
        """A connection has ended before the response began."""
        if backend.uses == 1:
            # One that was used before may just have been closed for its age.
            backend.node.failed(self.balancer.now)
        log.info(
            "node closed before it answered",
            extra={"node": backend.node.name, "uses": backend.uses, "tries": exchange.tries},
        )
        self._again(exchange, 502, "It closed the connection before it answered.")

    def garbage(self, exchange: Exchange, backend: Backend, why: str) -> None:
        """A node has answered something that is no HTTP, or not what was asked."""
        pause = backend.node.failed(self.balancer.now)
        log.warning("node left out: %s", why, extra={"node": backend.node.name, "pause_s": pause})
        self._again(exchange, 502, "What it has answered is not HTTP.")

    def _again(self, exchange: Exchange, status: int, why: str) -> None:
        if exchange.repeatable:
            self.request_backend(exchange)
        else:
            exchange.client.error(status, why)
            self.ended(exchange)
            self.spawn()

    def take_response(
        self, exchange: Exchange, backend: Backend, response: ResponseHead, rest: bytes
    ) -> bool:
        """Look at a response before it is passed on; whether it is taken care of."""
        hooks = self.service.hooks
        if "backend_response_received" in hooks and hooks.run(
            "backend_response_received", exchange, response
        ):
            backend.drop(rest)
            return True
        if response.status == 500 and self._retry_error(exchange, backend, rest):
            return True
        if self.parameters.enable_reproxy and reproxy.wanted(response):
            if "modify_response_headers" in hooks:
                hooks.run_all("modify_response_headers", exchange.client, response)
            backend.drop(rest)
            reproxy.take(self, exchange, response)
            return True
        if "modify_response_headers" in hooks:
            hooks.run_all("modify_response_headers", exchange.client, response)
        return False

    def _retry_error(self, exchange: Exchange, backend: Backend, rest: bytes) -> bool:
        """Ask again after 500, if that is wanted and there is a try left."""
        schedule = self.parameters.error_retry_schedule
        request = exchange.request
        if (
            not self.parameters.enable_error_retries
            or request.method not in (b"GET", b"HEAD")
            or request.length != 0
            or exchange.error_tries >= len(schedule)
        ):
            return False
        pause = schedule[exchange.error_tries]
        exchange.error_tries += 1
        exchange.tries = 0
        backend.drop(rest)
        asyncio.get_running_loop().call_later(pause, self._ask_again, exchange)
        return True

    def _ask_again(self, exchange: Exchange) -> None:
        if exchange.client.exchange is exchange:
            self.request_backend(exchange)

    # -- life ---------------------------------------------------------------------

    def changed(self, key: str) -> None:
        """Take over what is looked at for every request, and open connections in advance."""
        parameters = self.parameters
        self.queues.relief_size = parameters.queue_relief_size
        self.queues.relief_chance = parameters.queue_relief_chance
        hooks = self.service.hooks
        self.special = (
            parameters.enable_error_retries
            or parameters.enable_reproxy
            or "backend_response_received" in hooks
            or "modify_response_headers" in hooks
        )
        self.cache.most = parameters.reproxy_cache_maxsize
        self.cache.trim()
        if key == "pool":
            self.pool = self.balancer.pools.get(parameters.pool)
            self.generation += 1
            self._pool_generation = -1
        if key in ("pool", "connect_ahead", "enabled"):
            self.spawn()

    def check(self) -> None:
        """Refuse to be enabled without a pool."""
        if self.pool is None:
            name = self.service.name
            raise CommandError(f"service {name} has no pool; SET {name}.pool = ...")
        if self.parameters.buffer_uploads and self.parameters.buffer_uploads_path is None:
            name = self.service.name
            raise CommandError(
                f"service {name}: buffer_uploads needs a folder; SET {name}.buffer_uploads_path = "
                "..."
            )

    def tick(self, now: float) -> None:
        """Give up on what takes too long, and try again what was left out."""
        parameters = self.parameters
        for backend in [b for b in self.pending if now - b.last_input > self._patience]:
            self.forget(backend)
            backend.state = "closed"
            backend.abort()
            self.connect_failed(backend, "it does not answer")
        if parameters.backend_response_timeout:
            for backend in list(self.backends):
                self._silent(backend, now - parameters.backend_response_timeout)
        if parameters.queue_timeout and len(self.queues):
            for exchange in self.queues.waited_since(now - parameters.queue_timeout):
                self.queues.remove(exchange)
                exchange.client.error(503, "No server was free in time.")
                self.ended(exchange)
        for backend in [b for b in self.bored if not self._keep(b, now)]:
            backend.close()
            self.bored.remove(backend)
        self.reproxier.tick(now)
        self.spawn()

    @property
    def _patience(self) -> int:
        return self.parameters.backend_connect_timeout

    def _keep(self, backend: Backend, now: float) -> bool:
        """Whether a free connection is still good."""
        fresh = backend.attention or now - backend.created < FRESH_S
        return fresh and backend.fit(now)

    def _silent(self, backend: Backend, before: float) -> None:
        """Give up on a node that should answer and does not."""
        exchange = backend.exchange
        if exchange is None or backend.state == "tunnel" or backend.last_input > before:
            return
        if exchange.client.full or not exchange.body_sent:
            return
        backend.node.failed(self.balancer.now)
        log.warning("node is silent", extra={"node": backend.node.name})
        backend.exchange = exchange.backend = None
        backend.abort()
        if exchange.responded:
            exchange.client.cut_off()
        else:
            exchange.client.error(504)
        self.ended(exchange)

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        for backend in list(self.backends):
            backend.abort()
        self.reproxier.close()

    # -- for the console ----------------------------------------------------------

    def reproxying(self) -> Counter[str]:
        """Connections to URLs that nodes have named, by address."""
        return self.reproxier.figures()

    def describe(self) -> list[str]:
        """Queues, connections and nodes."""
        now = self.balancer.now
        lines = [f"  pend clients: {len(self.queues)}", f"  pend backend: {len(self.pending)}"]
        for backend in sorted(self.pending, key=lambda each: each.node.name):
            age = now - backend.created
            lines.append(f"   {backend.node.name} - {backend.state} - {age:.0f}s")
        if self.cache.most:
            requests = max(self.service.requests, 1)
            share = len(self.cache) / self.cache.most
            lines.append(f"    cache size: {len(self.cache)}/{self.cache.most} ({share:.2%})")
            lines.append(f"    cache hits: {self.cache.hits}")
            lines.append(f"cache hit rate: {self.cache.hits / requests:.2%}")
        lines.append(f" connect-ahead: {len(self.bored)}/{self.parameters.connect_ahead}")
        pool = self.pool
        if pool is not None:
            lines.append(f"          pool: {pool.name}")
            lines.append("         nodes:")
            for address in pool.nodes:
                lines.append(f"                {address!s:<21} {pool.used[address]:7d}")
        return lines
