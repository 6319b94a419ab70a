"""A connection to a node: how it is made, proved and used up.

With ``verify_backend``, a new connection is sent ``OPTIONS`` first.  Any answer of HTTP proves
that a process has accepted the connection, and not only its system.  A node that closes after
it can't be verified in this way: its connections are used without, for `UNVERIFIED_S` seconds.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from lj_services.perlbal.connected import Connected
from lj_services.perlbal.http.chunked import ChunkDecoder
from lj_services.perlbal.http.errors import BadMessage
from lj_services.perlbal.http.head import CHUNKED, UNTIL_CLOSE, ResponseHead
from lj_services.perlbal.http.incomplete import check_more
from lj_services.perlbal.http.parse import parse_response

if TYPE_CHECKING:
    from lj_services.perlbal.nodes import Node
    from lj_services.perlbal.proxy.exchange import Exchange
    from lj_services.perlbal.proxy.owner import Owner

UNVERIFIED_S: Final = 60.0

log = logging.getLogger(__name__)


class NodeConnection(Connected):
    """The connection itself; what goes over it is `backend.Backend`'s business."""

    __slots__ = (
        "_chunks",
        "_left",
        "_partial",
        "_response",
        "attention",
        "connecting",
        "exchange",
        "expires",
        "generation",
        "last_input",
        "node",
        "role",
        "state",
        "uses",
    )

    kind = "Perlbal::BackendHTTP"

    def __init__(self, role: Owner, node: Node, now: float) -> None:
        super().__init__(now)
        self.role = role
        self.node = node
        self.last_input = now
        self.generation = role.generation
        self.state = "connecting"
        self.connecting: asyncio.Task[Any] | None = None
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

    # -- what the event loop calls ------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The node, or its system, has accepted."""
        super().connection_made(transport)
        self.last_input = self.role.balancer.now
        self._made()

    def write(self, data: bytes) -> None:
        """Send a piece of the request's body."""
        self.transport.write(data)

    # -- reading ------------------------------------------------------------------

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

    # -- what comes of it: filled in by `backend.Backend` ---------------------------

    def _interim(self, head: ResponseHead) -> None:
        """A response before the response has come."""

    def _made(self) -> None:
        """It has been made."""

    def _proved(self) -> None:
        """It has answered OPTIONS, and can take a request."""

    # -- OPTIONS ------------------------------------------------------------------

    def verify(self, path: str) -> None:
        """Ask for a sign of life."""
        self.state = "verifying_backend"
        self.last_input = self.role.balancer.now
        host = self.node.name.encode()
        request = b"OPTIONS %b HTTP/1.1\r\nHost: %b\r\nConnection: keep-alive\r\n\r\n"
        self.transport.write(request % (path.encode(), host))

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
            self._proved()
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
            and not self.node.unhealthy
            and self.generation == self.role.generation
            and (not limit or self.uses < limit)
            and (not self.expires or now < self.expires)
        )

    @property
    def service_name(self) -> str:
        """The service that it works for."""
        return self.role.service.name

    def describe(self) -> str:
        """One line about it."""
        text = f"({self.node.name}): service={self.service_name}; uses={self.uses}; {self.state}"
        if self.role.parameters.verify_backend:
            text += f"; has_attention={'yes' if self.attention else 'no'}"
        return text
