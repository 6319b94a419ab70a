"""The reverse proxy: what becomes of a request, whatever its node does.

A request is answered by a plug-in or from the cache, or asks for a node, and waits in a queue
if none is free (`connections`).  What a node does instead of answering (closing, keeping
silent, sending garbage, failing) is met here: by asking another one where that does no harm
(`exchange.Exchange.repeatable`), with an error's page otherwise, and by leaving the node out
for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.proxy import reproxy
from lj_services.perlbal.proxy.connections import Connections
from lj_services.perlbal.proxy.cookies import has_cookie
from lj_services.perlbal.proxy.exchange import Exchange
from lj_services.perlbal.proxy.fetching import Reproxier
from lj_services.perlbal.proxy.health import Health
from lj_services.perlbal.proxy.queues import Priority
from lj_services.perlbal.proxy.reproxy_cache import Cache
from lj_services.perlbal.service import Service

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.http.head import ResponseHead
    from lj_services.perlbal.proxy.backend import Backend

log = logging.getLogger(__name__)


class ProxyRole(Connections):
    """A service that passes requests on to nodes.

    Attributes:
        health: asks nodes how they are.
        reproxier: fetches what nodes have named by URL.
        cache: what they have named lately.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.reproxier = Reproxier(self)
        self.cache = Cache()
        self.health = Health(self)
        self._cookies = False

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
        if self.progress.listeners:
            if self.progress.answer(client):
                return
            exchange.session = self.progress.session(exchange)
        if self.cache.most and reproxy.from_cache(self, client):
            return
        if self._cookies:
            self._by_cookie(exchange)
        if "make_high_priority" in waiting and hooks.run("make_high_priority", client):
            exchange.priority = Priority.HIGH
        if "make_low_priority" in waiting and hooks.run("make_low_priority", client):
            exchange.priority = Priority.LOW
        if client.body_complete or not client.request.length:
            exchange.ask()

    def _by_cookie(self, exchange: Exchange) -> None:
        """Choose a request's queue by what cookies it has."""
        parameters, request = self.parameters, exchange.request
        name, contents = parameters.high_priority_cookie, parameters.high_priority_cookie_contents
        if name and has_cookie(request, name, contents):
            exchange.priority = Priority.HIGH
        name, contents = parameters.low_priority_cookie, parameters.low_priority_cookie_contents
        if name and has_cookie(request, name, contents):
            exchange.priority = Priority.LOW

    def request_backend(self, exchange: Exchange) -> None:
        """Find a connection for a request, or let it wait for one."""
        hooks = self.service.hooks
        if "proxy_read_request" in hooks.by_point and hooks.run("proxy_read_request", exchange):
            return
        exchange.asked_at = now = self.balancer.now
        self.notice()
        if self.sticking.wanted:
            exchange.node = self.sticking.node(exchange, now)
        backend = self.take_bored(exchange.node, now) if self.bored else None
        if backend is not None:
            self._assign(backend, exchange)
            if self.parameters.connect_ahead:
                self.spawn()
            return
        limit = self.parameters.queue_max_size
        if limit and len(self.queues) >= limit:
            last = self.queues.last_behind(exchange.priority)
            self._crowded_out(exchange if last is None else last)
            if last is None:
                return
        self.queues.push(exchange)
        self.spawn()

    def _crowded_out(self, exchange: Exchange) -> None:
        """Too many requests wait, and this one matters least."""
        self.queues.remove(exchange)
        exchange.client.error(503, "Too many requests are waiting.")
        self.ended(exchange)

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
        if self.sticking.cookie:
            self.sticking.tell(exchange, backend.node, response)
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
        self.queues.relief_age = parameters.queue_relief_age
        self.queues.relief_chance = parameters.queue_relief_chance
        self.progress.listeners = parameters.upload_status_listeners
        self.sticking.by(parameters.sticky_cookie, address=parameters.sticky_address)
        self._cookies = bool(parameters.high_priority_cookie or parameters.low_priority_cookie)
        hooks = self.service.hooks
        self.special = (
            parameters.enable_error_retries
            or parameters.enable_reproxy
            or bool(parameters.sticky_cookie)
            or "backend_response_received" in hooks
            or "modify_response_headers" in hooks
            or "prepend_body" in hooks
        )
        self.cache.most = parameters.reproxy_cache_maxsize
        self.cache.trim()
        self.plain.changed()
        if key == "pool":
            self.use_pool(self.balancer.pools.get(parameters.pool))
        if key in ("pool", "health_check_path"):
            self.health.changed()
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
        self.give_up_connecting(now)
        if parameters.backend_response_timeout:
            for backend in list(self.backends):
                self._silent(backend, now - parameters.backend_response_timeout)
        if parameters.queue_timeout and len(self.queues):
            for exchange in self.queues.waited_since(now - parameters.queue_timeout):
                self.queues.remove(exchange)
                exchange.client.error(503, "No server was free in time.")
                self.ended(exchange)
        self.drop_stale(now)
        self.reproxier.tick(now)
        self.health.tick(now)
        self.spawn()

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
        super().close()
        self.reproxier.close()
        self.health.close()

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
            for address in pool.weights():
                lines.append(f"                {address!s:<21} {pool.used[address]:7d}")
        return lines
