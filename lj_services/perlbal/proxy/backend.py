"""A connection to a node: one request at a time, over and over.

Theory of operation
===================

The states, in the original's words::

    connecting -> [verifying_backend] -> bored <-> wait_res -> xfer_res -> bored
                                                                       \\-> tunnel (upgrade)

- With ``verify_backend``, a new connection is sent ``OPTIONS`` first.  Any answer of HTTP
  proves that a process has accepted the connection.  A node that closes after it can't be
  verified in this way: its connections are used without, for `UNVERIFIED_S` seconds.
- The response's framing is read here, and its body passed on as it comes: as it is where a
  length was told, in chunks of our own to clients of HTTP/1.1 where it was not, until the
  end to those of HTTP/1.0.
- While the client does not read, nothing is read from the node (`pause_reading`); how much
  may be on the way in between is the client's transport's business.
- What a node sends while nobody has asked it anything, it has not been asked: the
  connection is closed, so that it can't be taken for the answer to the next request.
- If the connection ends within a response whose length was told, the client's is cut off:
  it must not take a part for the whole.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from lj_services.perlbal.http.chunked import LAST_CHUNK, ChunkDecoder, chunk
from lj_services.perlbal.http.errors import BadMessage
from lj_services.perlbal.http.head import (
    CHUNKED,
    UNTIL_CLOSE,
    ResponseHead,
    check_more,
    parse_response,
)
from lj_services.perlbal.proxy.headers import head_for_client

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.nodes import Node
    from lj_services.perlbal.parameters import Parameters
    from lj_services.perlbal.proxy.exchange import Exchange
    from lj_services.perlbal.service import Service

UNVERIFIED_S: Final = 60.0
EXPIRY_MARGIN_S: Final = 2.0
"""How long before a node would close a connection it is not used any more."""
_TIMEOUT = re.compile(rb"timeout=(\d{1,6})")

log = logging.getLogger(__name__)


class Owner(Protocol):
    """Whose connections these are: it opens them, and decides what each does next."""

    service: Service
    balancer: Balancer
    parameters: Parameters
    generation: int
    special: bool
    """Whether `take_response` is to be asked."""

    def request_backend(self, exchange: Exchange) -> None:
        """Find a connection for a request."""

    def abandon(self, exchange: Exchange) -> None:
        """The client is gone."""

    def connected(self, backend: Backend) -> None:
        """The connection has been made."""

    def connect_failed(self, backend: Backend, why: str) -> None:
        """It has not, or nobody is there."""

    def free(self, backend: Backend) -> None:
        """It can take a request."""

    def forget(self, backend: Backend) -> None:
        """It is gone."""

    def spawn(self) -> None:
        """Open others if they are wanted."""

    def take_response(
        self, exchange: Exchange, backend: Backend, response: ResponseHead, rest: bytes
    ) -> bool:
        """Look at a response before it is passed on; whether it is taken care of."""

    def lost(self, exchange: Exchange, backend: Backend) -> None:
        """It has ended before the response began."""

    def garbage(self, exchange: Exchange, backend: Backend, why: str) -> None:
        """The response is none."""

    def ended(self, exchange: Exchange) -> None:
        """The request is through, one way or the other."""


class Backend(asyncio.Protocol):
    """One connection to a node, for one service."""

    __slots__ = (
        "_chunks",
        "_left",
        "_partial",
        "_rechunk",
        "_response",
        "_reusable",
        "attention",
        "connecting",
        "created",
        "exchange",
        "expires",
        "generation",
        "last_input",
        "node",
        "role",
        "state",
        "transport",
        "uses",
    )

    kind = "Perlbal::BackendHTTP"

    def __init__(self, role: Owner, node: Node, now: float) -> None:
        self.role = role
        self.node = node
        self.created = self.last_input = now
        self.generation = role.generation
        self.state = "connecting"
        self.connecting: asyncio.Task[Any] | None = None
        self.transport: Any = None
        self.exchange: Exchange | None = None
        self.uses = 0
        self.attention = False
        """Whether a process is known to have accepted it."""
        self.expires = 0.0
        """Loop time at which the node will close it; 0: unknown."""
        self._partial = b""
        self._response: ResponseHead | None = None
        self._left = 0
        self._chunks: ChunkDecoder | None = None
        self._rechunk = False
        self._reusable = False

    # -- requests -----------------------------------------------------------------

    def assign(self, exchange: Exchange) -> None:
        """Send a request."""
        role = self.role
        exchange.backend = self
        exchange.tries += 1
        self.exchange = exchange
        head = exchange.head(persist=role.parameters.persist_backend)
        if head is None:
            # A plug-in has answered the client; the connection is as good as it was.
            exchange.backend = self.exchange = None
            role.free(self)
            return
        self.uses += 1
        self.node.requests += 1
        self.state = "wait_res"
        self.last_input = role.balancer.now
        self._response = None
        self._reusable = False
        held = exchange.take_held()
        self.transport.write(head if not held else b"".join([head, *held]))
        exchange.assigned(self)

    def write(self, data: bytes) -> None:
        """Send a piece of the request's body."""
        self.transport.write(data)

    def verify(self, path: str) -> None:
        """Ask for a sign of life."""
        self.state = "verifying_backend"
        self.last_input = self.role.balancer.now
        host = self.node.name.encode()
        request = b"OPTIONS %b HTTP/1.1\r\nHost: %b\r\nConnection: keep-alive\r\n\r\n"
        self.transport.write(request % (path.encode(), host))

    # -- what the event loop calls ------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The node, or its system, has accepted."""
        self.transport = transport
        self.last_input = self.role.balancer.now
        self.role.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone: what that means depends on what it was doing."""
        state, self.state = self.state, "closed"
        self.role.forget(self)
        exchange, self.exchange = self.exchange, None
        if state == "verifying_backend":
            self.role.connect_failed(self, "closed before it answered OPTIONS")
        elif exchange is None:
            self.role.spawn()
        elif self._response is None:
            exchange.backend = None
            self.role.lost(exchange, self)
        elif self._left == UNTIL_CLOSE and exc is None and state == "xfer_res":
            self._end(exchange)
        else:
            exchange.backend = None
            if state != "tunnel":
                log.warning("node closed within a response", extra={"node": self.node.name})
            exchange.client.cut_off()
            self.role.ended(exchange)

    def data_received(self, data: bytes) -> None:
        """A response, or a part of one."""
        self.last_input = self.role.balancer.now
        exchange = self.exchange
        if exchange is None:
            if self.state == "verifying_backend":
                self._verified(data)
            else:
                self.close()
        elif self._response is None:
            self._head(exchange, data)
        else:
            self._body(exchange, data)

    def pause_writing(self) -> None:
        """The node does not read fast enough: read no more of the request's body."""
        if self.exchange is not None:
            self.exchange.node_full()

    def resume_writing(self) -> None:
        """The node has read."""
        if self.exchange is not None:
            self.exchange.node_ready()

    # -- responses ----------------------------------------------------------------

    def _parse(self, data: bytes, method: bytes) -> tuple[ResponseHead, bytes] | None:
        """The response's head and what is behind it; None while it is incomplete."""
        if self._partial:
            start = len(self._partial)
            data = self._partial + data
            if not check_more(data, start, 502):
                self._partial = data
                return None
        while True:
            parsed = parse_response(data, method)
            if parsed is None:
                self._partial = data
                return None
            head, used = parsed
            data = data[used:]
            if head.status >= 200 or head.status == 101:
                self._partial = b""
                return head, data
            self._interim(head)
            if not data:
                self._partial = b""
                return None

    def _interim(self, head: ResponseHead) -> None:
        """A response before the response; only the client that may know of it is told."""
        exchange = self.exchange
        if exchange is not None and head.status != 100 and exchange.request.minor:
            lines = b"\r\n".join([*head.kept_lines(), b"\r\n"])
            status = b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)
            exchange.client.transport.write(status + lines)

    def _head(self, exchange: Exchange, data: bytes) -> None:
        try:
            parsed = self._parse(data, exchange.request.method)
        except BadMessage as error:
            self.exchange = exchange.backend = None
            self.abort()
            self.role.garbage(exchange, self, str(error))
            return
        if parsed is None:
            return
        response, rest = parsed
        role = self.role
        node = self.node
        self._response = response
        self.attention = True
        node.codes.append(response.status)
        node.last_response = role.balancer.wall
        if not node.proven:
            node.succeeded()
        if response.status == 101:
            self._upgrade(exchange, response, rest)
            return
        self._left = length = response.length
        if length == CHUNKED:
            self._chunks = ChunkDecoder(502)
        if (alive := response.fields.get(b"keep-alive")) is not None:
            timeout = _TIMEOUT.search(alive)
            if timeout is not None:
                self.expires = self.last_input + int(timeout[1]) - EXPIRY_MARGIN_S
        self._reusable = response.keep_alive and exchange.body_sent
        if role.special and role.take_response(exchange, self, response, rest):
            return
        client = exchange.client
        request = exchange.request
        self.state = "xfer_res"
        exchange.responded = True
        if length < 0:
            self._rechunk = request.minor == 1
            if not self._rechunk:
                client.keep_alive = False
        head = head_for_client(response, request, keep_alive=client.keep_alive)
        if length >= 0:
            left = length - len(rest)
            if left > 0:
                self._left = left
                client.transport.write(head + rest)
                return
            if left < 0:
                rest = rest[:left]
                self._reusable = False
            client.transport.write(head + rest if rest else head)
            self._finish(exchange)
            return
        client.transport.write(head)
        if rest:
            self._body(exchange, rest)

    def _body(self, exchange: Exchange, data: bytes) -> None:
        transport = exchange.client.transport
        left = self._left
        if left > 0:
            left -= len(data)
            if left > 0:
                self._left = left
                transport.write(data)
                return
            if left < 0:
                data = data[:left]
                self._reusable = False
            transport.write(data)
            self._finish(exchange)
        elif self._chunks is not None:
            try:
                data = self._chunks.feed(data)
            except BadMessage as error:
                log.warning("node: %s", error, extra={"node": self.node.name})
                self.abort()
                return
            if data:
                transport.write(chunk(data) if self._rechunk else data)
            if self._chunks.done:
                if self._chunks.rest:
                    self._reusable = False
                self._chunks = None
                self._end(exchange)
        elif self.state == "tunnel":
            transport.write(data)
        elif self._left == UNTIL_CLOSE:
            transport.write(chunk(data) if self._rechunk else data)

    def _end(self, exchange: Exchange) -> None:
        """The end of a body whose length was not told."""
        if self._rechunk:
            exchange.client.transport.write(LAST_CHUNK)
        self._finish(exchange)

    def _finish(self, exchange: Exchange) -> None:
        """The response is through."""
        role = self.role
        exchange.backend = self.exchange = None
        role.ended(exchange)
        exchange.client.done()
        self.released()

    def released(self) -> None:
        """It has no request any more: use it again, or close it."""
        if self.state == "closed":
            return
        if self._reusable:
            self.role.free(self)
        else:
            self.close()

    def drop(self, rest: bytes) -> None:
        """Take the request away; what still comes of the response is not wanted.

        Args:
            rest: what has come behind the response's head.
        """
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.backend = None
        response, self._response = self._response, None
        self._chunks = None
        self.state = "bored"
        whole = response is not None and response.length == len(rest)
        if whole and self._reusable:
            self.role.free(self)
        else:
            self.abort()

    def _upgrade(self, exchange: Exchange, response: ResponseHead, rest: bytes) -> None:
        """From now on it is the two sides' protocol, and passed on as it is."""
        if not exchange.request.upgrade:
            self.exchange = exchange.backend = None
            self.abort()
            self.role.garbage(exchange, self, "an upgrade that nobody asked for")
            return
        self.state = "tunnel"
        self._left = UNTIL_CLOSE
        self._chunks = None
        exchange.responded = True
        upgrade = response.fields.get(b"upgrade", exchange.request.upgrade)
        lines = [*response.kept_lines(), b"Upgrade: " + upgrade, b"Connection: Upgrade", b"\r\n"]
        head = b"HTTP/1.1 101 %b\r\n" % (response.reason or b"Switching Protocols")
        exchange.client.transport.write(head + b"\r\n".join(lines) + rest)
        exchange.client.tunnel()

    # -- OPTIONS ------------------------------------------------------------------

    def _verified(self, data: bytes) -> None:
        try:
            parsed = self._parse(data, b"OPTIONS") if self._response is None else None
        except BadMessage as error:
            self.abort()
            log.info("node answers OPTIONS wrongly: %s", error, extra={"node": self.node.name})
            return
        if self._response is None:
            if parsed is None:
                return
            self._response, data = parsed
            self._left = self._response.length
            self._chunks = ChunkDecoder(502) if self._left == CHUNKED else None
        if not self._skip(data):
            return
        response, self._response = self._response, None
        self.attention = True
        self.node.succeeded()
        if response.keep_alive:
            self.role.free(self)
        else:
            self.state = "bored"
            self.node.unverified_until = self.role.balancer.now + UNVERIFIED_S
            self.close()

    def _skip(self, data: bytes) -> bool:
        """Throw a body away; whether all of it has come."""
        if self._chunks is not None:
            try:
                self._chunks.feed(data)
            except BadMessage:
                self.abort()
                return False
            return self._chunks.done
        if self._left == UNTIL_CLOSE:
            return True
        self._left -= len(data)
        return self._left <= 0

    # -- the connection -----------------------------------------------------------

    def pause_reading(self) -> None:
        """Read no more of the response for now."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self.transport is not None and not self.transport.is_closing():
            self.last_input = self.role.balancer.now
            self.transport.resume_reading()

    def close(self) -> None:
        """Close it; it has no request."""
        if self.connecting is not None and self.transport is None:
            self.connecting.cancel()
        elif self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close it at once, whatever it is doing."""
        if self.transport is not None:
            self.transport.abort()
        else:
            self.close()

    def fit(self, now: float) -> bool:
        """Whether another request may be sent over it."""
        limit = self.role.parameters.max_backend_uses
        return (
            not self.transport.is_closing()
            and self.generation == self.role.generation
            and (not limit or self.uses < limit)
            and (not self.expires or now < self.expires)
        )

    @property
    def service_name(self) -> str:
        """The service that it works for."""
        return self.role.service.name

    @property
    def unsent(self) -> int:
        """Bytes that wait for the node to read."""
        return int(self.transport.get_write_buffer_size()) if self.transport is not None else 0

    @property
    def has_file(self) -> bool:
        """No file is read for a node."""
        return False

    @property
    def fd(self) -> int:
        """The socket's number; -1 while there is none."""
        if self.transport is None:
            return -1
        connected = self.transport.get_extra_info("socket")
        return connected.fileno() if connected is not None else -1

    def describe(self) -> str:
        """One line about it."""
        text = f"({self.node.name}): service={self.service_name}; uses={self.uses}; {self.state}"
        if self.role.parameters.verify_backend:
            text += f"; has_attention={'yes' if self.attention else 'no'}"
        return text
