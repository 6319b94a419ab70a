"""A client's connection: its pace, its end, and how long it may keep us waiting.

Slow clients: a head must be complete ``idle_timeout`` seconds after its first byte; a body, and
reading a response, must go on every so often.  There is no timer for each connection: the
balancer's tick asks all of them (`HttpConnection.tick`).

What is said over it is `frontend.ClientConnection`'s business.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.access import Counted
from lj_services.perlbal.answering import Exchange
from lj_services.perlbal.connected import Connected
from lj_services.perlbal.http.chunked import ChunkDecoder
from lj_services.perlbal.http.errors import BadMessage
from lj_services.perlbal.http.head import RequestHead

if TYPE_CHECKING:
    from lj_services.perlbal.service import Service

LINGER_S: Final = 2.0
"""How long a client may take to read the last response, in seconds, while it is not read."""
ENDLESS: Final = 1 << 62
"""What is left of a body that is a tunnel."""
NO_REQUEST: Final = RequestHead(b"GET", b"/", 1)
"""What a connection has before the first request."""

log = logging.getLogger(__name__)


class HttpConnection(Connected):
    """The connection itself."""

    __slots__ = (
        "_body_left",
        "_chunks",
        "_counted",
        "_deadline",
        "_partial",
        "_paused",
        "_pending",
        "_reading_body",
        "_unwanted",
        "balancer",
        "closing",
        "exchange",
        "full",
        "high_water",
        "home",
        "hops",
        "keep_alive",
        "kind",
        "last_input",
        "observed_ip",
        "peer",
        "request",
        "requests",
        "service",
    )

    def __init__(self, service: Service) -> None:
        super().__init__(service.balancer.now)
        self.balancer = service.balancer
        self.home = service
        """The service that it has connected to."""
        self.service = service
        """The service that has its request; a selector chooses."""
        self.kind = "Perlbal::ClientHTTPBase"
        self.high_water = 64 << 10
        self.exchange: Exchange | None = None
        self.request: RequestHead = NO_REQUEST
        self.peer = ""
        """The address that it comes from."""
        self.observed_ip = ""
        """The address that it has according to proxies that are trusted; empty: its own."""
        self.last_input = self.created
        self.requests = 0
        self.hops = 0
        """Selectors that the request has passed."""
        self.keep_alive = False
        self.full = False
        """Whether it does not read what is sent."""
        self.closing = False
        """Whether nothing is read from it any more."""
        self._partial = b""
        self._pending = b""
        self._reading_body = False
        self._unwanted = False
        """Whether what still comes of the body is thrown away."""
        self._body_left = 0
        self._chunks: ChunkDecoder | None = None
        self._counted: Counted | None = None
        self._deadline = 0.0
        self._paused = False

    # -- what the event loop calls ------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it in."""
        super().connection_made(transport)
        balancer = self.balancer
        name = transport.get_extra_info("peername")
        self.peer = name[0] if name else ""
        if not balancer.limits.admit(self):
            self.closing = True
            self.transport.close()
            return
        balancer.clients.add(self)
        balancer.connections.add(self)
        # While draining, who was accepted at the last moment still has a request answered.
        patience_s = LINGER_S if balancer.draining else self.home.parameters.idle_timeout
        self._deadline = balancer.now + patience_s

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it out, and tell who works for it."""
        self.closing = True
        self.balancer.limits.forget(self)
        self.balancer.clients.discard(self)
        self.balancer.connections.discard(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self.logged(whole=False)
            exchange.client_gone()

    def eof_received(self) -> bool:
        """It is gone: a client that only ends its own side can't be told from one that left."""
        self.closing = True
        self._deadline = self.balancer.now + LINGER_S
        return False

    def pause_writing(self) -> None:
        """It does not read fast enough."""
        self.full = True
        if self.exchange is not None:
            self.exchange.client_full()

    def resume_writing(self) -> None:
        """It has read."""
        self.full = False
        self.last_input = self.balancer.now
        if self.exchange is not None:
            self.exchange.client_ready()

    # -- the access log -------------------------------------------------------------

    def count(self) -> None:
        """A request has come that is to be logged: look at what is sent."""
        if self._counted is None:
            self.transport = self._counted = Counted(self.transport)
        self._counted.begin(self.request)

    def logged(self, *, whole: bool) -> None:
        """The request is through, and all of the response was sent or not."""
        access_log = self.home.access_log
        if access_log is not None and self._counted is not None and self._counted.began:
            access_log.add(self.observed_ip or self.peer, self.request, self._counted, whole=whole)
            self._counted.began = 0.0

    def file_sent(self, size: int) -> None:
        """So many bytes went to the socket past the transport."""
        if self._counted is not None:
            self._counted.sent += size

    # -- filled in by `frontend.ClientConnection` ------------------------------------

    def _refuse(self, error: BadMessage) -> None:
        """Answer what can't be read, and close."""
        raise NotImplementedError

    # -- pace and end --------------------------------------------------------------

    def buffer_up_to(self, size: int) -> None:
        """How much may wait for it to read, in bytes, before whoever sends is told to stop."""
        if self.high_water != size:
            self.high_water = size
            self.transport.set_write_buffer_limits(high=size)

    def pause_reading(self) -> None:
        """Read nothing from the client for a while."""
        if not self._paused and not self.closing:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the client again."""
        if self._paused and not self.closing:
            self._paused = False
            self.last_input = self.balancer.now
            self.transport.resume_reading()

    def resume_reading_for_good(self) -> None:
        """Let what still comes be thrown away."""
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def cut_off(self) -> None:
        """Close in the middle of a response: what has been sent leaves, no more comes."""
        self.logged(whole=False)
        self.exchange = None
        self.closing = True
        self._deadline = self.balancer.now + LINGER_S
        self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    close = abort

    # -- time and the console -----------------------------------------------------

    def tick(self, now: float) -> None:
        """Cut it off if it keeps us waiting."""
        if self.closing:
            if now > self._deadline and not (
                self.transport.get_write_buffer_size()
                and now - self.last_input < self.home.parameters.idle_timeout
            ):
                self.abort()
        elif self.exchange is None:
            if now > self._deadline:
                if self._partial:
                    self._refuse(BadMessage(408, "the head took too long"))
                else:
                    self._close_idle()
        elif self._body_left == ENDLESS and self._reading_body:
            return  # a tunnel may be silent
        elif now - self.last_input > self.service.parameters.idle_timeout and (
            self.full or self.has_file or (self._reading_body and not self._paused)
        ):
            log.info("cut off: it keeps us waiting", extra={"peer": self.peer})
            self.abort()

    def drain(self, idle_s: float) -> None:
        """Finish what is going on, then close.

        Args:
            idle_s: how long it may still ask for something if nothing is going on: what it
                sends at the moment at which it is closed would be lost.
        """
        if self.exchange is not None:
            if not self.exchange.responded:
                self.keep_alive = False  # the response will say so
        elif not self._partial and not self.closing:
            if idle_s:
                self._deadline = min(self._deadline, self.balancer.now + idle_s)
            else:
                self._close_idle()

    def _close_idle(self) -> None:
        """Close while nothing is going on, unless a request has just come.

        Where this process did not get its turn for a while, time has passed for it before it has
        read what came meanwhile; to close now would throw that away.
        """
        if self.unread:
            self._deadline = self.balancer.now + LINGER_S
        else:
            self.closing = True
            self.transport.close()

    @property
    def gone(self) -> bool:
        """Whether it has no connection any more."""
        return self not in self.balancer.clients

    @property
    def body_complete(self) -> bool:
        """Whether the whole request has come."""
        return not self._reading_body

    @property
    def state(self) -> str:
        """What it is doing, in one word."""
        if self.closing:
            return "draining"
        if self.exchange is None:
            return "reading_headers" if self._partial or not self.requests else "persist_wait"
        if self._reading_body:
            return "reading_body"
        return "wait_res"

    @property
    def service_name(self) -> str:
        """The service that has its request."""
        return self.service.name

    @property
    def has_file(self) -> bool:
        """Whether it is being sent a file."""
        return self.exchange is not None and self.exchange.has_file

    def describe(self) -> str:
        """One line about it."""
        text = f"({self.peer}): service={self.service.name}; reqs={self.requests}; {self.state}"
        if self.observed_ip:
            text += f"; observed_ip={self.observed_ip}"
        if self.exchange is not None:
            request = self.request
            host = request.host.decode("latin-1") or "unknown"
            text += f"; http://{host}{request.target.decode('latin-1')}"
            text += self.exchange.describe()
        return text
