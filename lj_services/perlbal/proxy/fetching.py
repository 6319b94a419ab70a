"""X-REPROXY-URL: the content of a URL, with a node's fields, to a client.

Theory of operation
===================

A `UrlExchange` has the URLs that are left.  `Reproxier` gives it to a connection to the first
one's server: a free one, or one that it opens for it.  If that can't be connected to, does
not answer in HTTP, answers anything but 2xx and 416, or something of another size than
expected, it is the next URL's turn; when none is left, the client is told 503.  Once the
client has been sent the beginning of a response, there is no way back.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.http.head import ResponseHead
from lj_services.perlbal.nodes import Address
from lj_services.perlbal.proxy.exchange import Exchange
from lj_services.perlbal.proxy.opening import Opener
from lj_services.perlbal.proxy.reproxy_cache import Url
from lj_services.perlbal.web.ranges import wanted_part

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.proxy.backend import Backend
    from lj_services.perlbal.proxy.role import ProxyRole

MOST_IDLE: Final = 4
"""Connections to one server that are kept while nobody needs them."""
CONNECT_S: Final = 5.0

log = logging.getLogger(__name__)


class UrlExchange(Exchange):
    """A request for the first of some URLs that answers, with a node's fields in its response."""

    __slots__ = ("cached", "current", "original", "size", "urls")

    def __init__(
        self,
        client: ClientConnection,
        role: Reproxier,
        original: ResponseHead,
        urls: list[Url],
        size: int | None,
    ) -> None:
        super().__init__(client, role)
        self.original = original
        self.urls = list(urls)
        self.cached = False
        self.size = size
        self.current: Url | None = None
        self.next_url()

    def next_url(self) -> Url | None:
        """The next URL, if there is one: `current` from now on."""
        self.current = self.urls.pop(0) if self.urls else None
        return self.current

    def head(self, *, persist: bool) -> bytes | None:
        """What the URL's server is asked."""
        url = self.current
        if url is None:
            return None
        method = b"HEAD" if self.client.request.method == b"HEAD" else b"GET"
        lines = [b"Host: " + str(url.address).removesuffix(":80").encode()]
        wanted = wanted_part(self.client.request.fields, self.original.fields)
        if wanted is not None:
            lines.append(b"Range: " + wanted)
        lines.append(b"Connection: keep-alive\r\n\r\n" if persist else b"Connection: close\r\n\r\n")
        return b"%b %b HTTP/1.1\r\n%b" % (method, url.path, b"\r\n".join(lines))

    def describe(self) -> str:
        """A few words for the console."""
        return "; reproxying" + (f" {self.current.text}" if self.current is not None else "")

    def merged(self, response: ResponseHead) -> None:
        """Put the node's fields into the URL's response; content, length and part stay."""
        original = self.original
        kept = [b"content-length", b"content-range"]
        own = [(name, response.fields[name]) for name in kept if name in response.fields]
        for name in kept:
            original.remove(name)
        response.own()
        response.lines = original.kept_lines()
        response.fields = original.fields
        response.hop = []
        for name, value in own:
            response.set(name.title(), value)
        if response.status == 200 and original.status != 204:
            response.status, response.reason = original.status, original.reason


class Reproxier(Opener):
    """The connections of one reverse proxy to servers that its nodes have named.

    Args:
        role: the reverse proxy.
    """

    special = True
    generation = 0

    def __init__(self, role: ProxyRole) -> None:
        super().__init__(role.service, CONNECT_S)
        self._role = role
        self._idle: dict[Address, list[Backend]] = {}
        self._waiting: dict[Backend, UrlExchange] = {}

    def fetch(
        self,
        client: ClientConnection,
        original: ResponseHead,
        urls: list[Url],
        size: int | None,
        *,
        cached: bool = False,
    ) -> None:
        """Answer a client with the first of `urls` that answers.

        Args:
            client: whom.
            original: the node's response: its fields are sent.
            urls: to try, in this order.
            size: that the content must have, in bytes, if that is known.
            cached: whether a node can be asked if none of them answers.
        """
        exchange = UrlExchange(client, self, original, urls, size)
        exchange.cached = cached
        client.exchange = exchange
        client.buffer_up_to(self.parameters.buffer_size_reproxy_url)
        self.request_backend(exchange)

    # -- connections --------------------------------------------------------------

    def request_backend(self, exchange: Exchange) -> None:
        """Give a request to a connection to its URL's server; without a URL, 503."""
        assert isinstance(exchange, UrlExchange)
        now = self.balancer.now
        url = exchange.current
        while url is not None and not self.balancer.nodes.get(url.address).usable(now):
            url = exchange.next_url()
        if url is None and exchange.cached:
            self._role.cache.forget(exchange.request)
            self._role.start(exchange.client)
            return
        if url is None:
            exchange.client.error(503, "What was asked for is not to be had at the moment.")
            self.ended(exchange)
            return
        idle = self._idle.get(url.address, [])
        while idle:
            backend = idle.pop()
            if backend.fit(now):
                backend.assign(exchange)
                return
            backend.close()
        self._waiting[self.open(self, self.balancer.nodes.get(url.address))] = exchange

    def connected(self, backend: Backend) -> None:
        """A server has accepted the connection that was opened for a request."""
        self.accepted(backend)
        exchange = self._waiting.pop(backend, None)
        if exchange is None:
            backend.close()
        else:
            backend.assign(exchange)

    def connect_failed(self, backend: Backend, why: str) -> None:
        """A server can't be connected to: the next URL."""
        backend.node.failed(self.balancer.now)
        log.warning("server of a URL left out: %s", why, extra={"node": backend.node.name})
        exchange = self._waiting.pop(backend, None)
        if exchange is not None:
            self._next(exchange)

    def free(self, backend: Backend) -> None:
        """A connection has done its work: keep it for the next request."""
        idle = self._idle.setdefault(backend.node.address, [])
        if self.parameters.persist_backend and len(idle) < MOST_IDLE:
            backend.state = "bored"
            idle.append(backend)
        else:
            backend.close()

    def forget(self, backend: Backend) -> None:
        """A connection is gone."""
        self.gone(backend)
        idle = self._idle.get(backend.node.address, [])
        if backend in idle:
            idle.remove(backend)

    def spawn(self) -> None:
        """Connections are opened for requests, never in advance."""

    # -- what comes of requests ---------------------------------------------------

    def take_response(
        self, exchange: Exchange, backend: Backend, response: ResponseHead, rest: bytes
    ) -> bool:
        """Look at a response: the client's, or the next URL's turn."""
        assert isinstance(exchange, UrlExchange)
        hooks = self.service.hooks
        if "reproxy_response_received" in hooks and hooks.run(
            "reproxy_response_received", exchange, response
        ):
            backend.drop(rest)
            return True
        size = exchange.size
        told = response.fields.get(b"content-range", b"").rpartition(b"/")[2]
        whole = int(told) if told.isdigit() else response.length
        good = 200 <= response.status < 300 or response.status == 416
        if good and (size is None or whole in (size, 0) or response.status == 416):
            exchange.merged(response)
            return False
        log.info(
            "a URL is not what was expected",
            extra={"node": backend.node.name, "status": response.status, "size": whole},
        )
        backend.drop(rest)
        self._next(exchange)
        return True

    def lost(self, exchange: Exchange, backend: Backend) -> None:
        """A server has closed before it answered."""
        if backend.uses == 1:
            backend.node.failed(self.balancer.now)
            self._next(exchange)
        else:
            self.request_backend(exchange)  # it had only been idle for too long

    def garbage(self, exchange: Exchange, backend: Backend, why: str) -> None:
        """A server has answered something that is no HTTP."""
        backend.node.failed(self.balancer.now)
        log.warning("server of a URL left out: %s", why, extra={"node": backend.node.name})
        self._next(exchange)

    def _next(self, exchange: Exchange) -> None:
        assert isinstance(exchange, UrlExchange)
        exchange.next_url()
        self.request_backend(exchange)

    def abandon(self, exchange: Exchange) -> None:
        """The client is gone."""
        for backend, waiting in list(self._waiting.items()):
            if waiting is exchange:
                del self._waiting[backend]
                backend.close()
        if exchange.backend is not None:
            exchange.backend.exchange = None
            exchange.backend.abort()
            exchange.backend = None
        self.ended(exchange)

    def ended(self, exchange: Exchange) -> None:
        """A request is through."""
        self._role.ended(exchange)

    # -- life ---------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Give up on servers that are silent."""
        patience = self.parameters.backend_response_timeout
        for backend in list(self.backends):
            exchange = backend.exchange
            if not patience or exchange is None or exchange.client.full:
                continue
            if backend.last_input < now - patience:
                backend.exchange = exchange.backend = None
                backend.abort()
                backend.node.failed(now)
                if exchange.responded:
                    exchange.client.cut_off()
                    self.ended(exchange)
                else:
                    self._next(exchange)

    def close(self) -> None:
        """Close all connections."""
        self.abort_all()

    def figures(self) -> Counter[str]:
        """How many connections there are to each server."""
        return Counter(backend.node.name for backend in self.backends)
