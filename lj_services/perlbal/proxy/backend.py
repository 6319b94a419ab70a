"""What goes over a connection to a node: one request at a time, over and over.

Theory of operation
===================

The states, in the original's words::

    connecting -> [verifying_backend] -> bored <-> wait_res -> xfer_res -> bored
                                                                       \\-> tunnel (upgrade)

- How a new connection is proved is `connection`'s business; here is what goes over it.
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

import logging
import re
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.http.chunked import LAST_CHUNK, ChunkDecoder, chunk
from lj_services.perlbal.http.errors import BadMessage
from lj_services.perlbal.http.head import (
    CHUNKED,
    UNTIL_CLOSE,
    ResponseHead,
)
from lj_services.perlbal.proxy.connection import NodeConnection
from lj_services.perlbal.proxy.headers import head_for_client

if TYPE_CHECKING:
    from lj_services.perlbal.nodes import Node
    from lj_services.perlbal.proxy.exchange import Exchange
    from lj_services.perlbal.proxy.owner import Owner

EXPIRY_MARGIN_S: Final = 2.0
"""How long before a node would close a connection it is not used any more."""
_TIMEOUT = re.compile(rb"timeout=(\d{1,6})")

log = logging.getLogger(__name__)


class Backend(NodeConnection):
    """One connection to a node, for one service."""

    __slots__ = ("_rechunk", "_reusable")

    def __init__(self, role: Owner, node: Node, now: float) -> None:
        super().__init__(role, node, now)
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
        if exchange.body_size:
            self.transport.write(b"".join([head, *exchange.take_held()]))
            exchange.assigned(self)
        else:
            self.transport.write(head)

    # -- what the event loop calls ------------------------------------------------

    def _made(self) -> None:
        self.role.connected(self)

    def _proved(self) -> None:
        self.role.free(self)

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
        request = exchange.request
        self._reusable = response.keep_alive and (not request.length or exchange.body_sent)
        if role.special:
            response.own()
            if role.take_response(exchange, self, response, rest):
                return
        client = exchange.client
        self.state = "xfer_res"
        exchange.responded = True
        if length < 0:
            self._rechunk = request.minor == 1
            if not self._rechunk:
                client.keep_alive = False
        head = head_for_client(response, request, keep_alive=client.keep_alive)
        if role.special:
            head += self._prepended(exchange, response)
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

    def _prepended(self, exchange: Exchange, response: ResponseHead) -> bytes:
        """What a plug-in has to send before the body, framed as that will be."""
        hooks = self.role.service.hooks
        bodiless = exchange.request.method == b"HEAD" or response.status in (204, 304)
        if bodiless or "prepend_body" not in hooks:
            return b""
        piece: bytes = hooks.ask("prepend_body", exchange.client, response) or b""
        return chunk(piece) if piece and self._left < 0 and self._rechunk else piece

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
        self.may_be_silent()
        self._left = UNTIL_CLOSE
        self._chunks = None
        exchange.responded = True
        upgrade = response.fields.get(b"upgrade", exchange.request.upgrade)
        lines = [*response.kept_lines(), b"Upgrade: " + upgrade, b"Connection: Upgrade", b"\r\n"]
        head = b"HTTP/1.1 101 %b\r\n" % (response.reason or b"Switching Protocols")
        exchange.client.transport.write(head + b"\r\n".join(lines) + rest)
        exchange.client.tunnel()
