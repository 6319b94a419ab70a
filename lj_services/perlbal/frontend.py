"""A client's connection: requests in, one after the other; responses out in the same order.

Theory of operation
===================

A connection is in one of these states, and `state` says which, in the original's words:

- ``reading_headers``: nothing, or the start of a head, has come.
- ``reading_body``: a head is complete, its body is not.  The service's role has been given
  the request and has made an exchange of it (`ClientConnection.exchange`), which is given
  what comes of the body.
- ``wait_res``: the whole request has come; the exchange owes a response.
- ``draining``: the last response is on its way, and what still comes is not read.

While an exchange is going on, what comes behind its request is kept, up to one head's size;
then nothing is read.  It is looked at when the response is through: pipelined requests are
answered in order, one at a time.

A response may be finished before the request's body has come.  Then the connection cannot
be used again, as where the body ends would have to be guessed; it is closed once the client
had time to read the response (`LINGER_S`), because closing while something unread has come
would make the system throw away what was sent.

Slow clients: a head must be complete ``idle_timeout`` seconds after its first byte; a body,
and reading a response, must go on every so often.  There is no timer for each connection:
the balancer's tick asks all of them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from lj_services.perlbal.answering import Exchange
from lj_services.perlbal.http.answers import (
    SERVER,
    connection_field,
    date_field,
    error_page,
    head,
)
from lj_services.perlbal.http.chunked import ChunkDecoder
from lj_services.perlbal.http.errors import BadMessage
from lj_services.perlbal.http.head import CHUNKED, MAX_HEAD, RequestHead, check_more, parse_request

if TYPE_CHECKING:
    from lj_services.perlbal.service import Service

LINGER_S: Final = 2.0
"""How long a client may take to read the last response, in seconds, while it is not read."""

log = logging.getLogger(__name__)


class ClientConnection(asyncio.Protocol):
    """One client that speaks HTTP/1 to a service."""

    __slots__ = (
        "_body_left",
        "_chunks",
        "_deadline",
        "_partial",
        "_paused",
        "_pending",
        "_reading_body",
        "balancer",
        "closing",
        "created",
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
        "transport",
    )

    def __init__(self, service: Service) -> None:
        self.balancer = service.balancer
        self.home = service
        """The service that it has connected to."""
        self.service = service
        """The service that has its request; a selector chooses."""
        self.kind = "Perlbal::ClientHTTPBase"
        self.high_water = 64 << 10
        self.transport: Any = None
        self.exchange: Exchange | None = None
        self.request: RequestHead = _NO_REQUEST
        self.peer = ""
        """The address that it comes from."""
        self.observed_ip = ""
        """The address that it has according to proxies that are trusted; empty: its own."""
        self.created = self.last_input = self.balancer.now
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
        self._body_left = 0
        self._chunks: ChunkDecoder | None = None
        self._deadline = 0.0
        self._paused = False

    # -- what the event loop calls ------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it in."""
        self.transport = transport
        balancer = self.balancer
        name = transport.get_extra_info("peername")
        self.peer = name[0] if name else ""
        if balancer.draining or not balancer.limits.admit(self):
            self.closing = True
            self.transport.close()
            return
        balancer.clients.add(self)
        balancer.connections.add(self)
        self._deadline = balancer.now + self.home.parameters.idle_timeout

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it out, and tell who works for it."""
        self.closing = True
        self.balancer.limits.forget(self)
        self.balancer.clients.discard(self)
        self.balancer.connections.discard(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone()

    def data_received(self, data: bytes) -> None:
        """A request, or a part of one."""
        if self.closing:
            return
        self.last_input = self.balancer.now
        if self.exchange is None:
            self._head(data)
        elif self._reading_body:
            self._body(data)
        else:
            self._pending += data
            if len(self._pending) > MAX_HEAD:
                self.pause_reading()

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

    # -- requests -----------------------------------------------------------------

    def _head(self, data: bytes) -> None:
        if self._partial:
            start = len(self._partial)
            data = self._partial + data
        else:
            start = -1
        try:
            if start >= 0 and not check_more(data, start, 400):
                self._partial = data
                return
            parsed = parse_request(data)
        except BadMessage as error:
            self._refuse(error)
            return
        if parsed is None:
            if start < 0:
                self._deadline = self.balancer.now + self.home.parameters.idle_timeout
            self._partial = data
            return
        self._partial = b""
        request, used = parsed
        self.request = request
        self.requests += 1
        self.balancer.requests += 1
        self.hops = 0
        service = self.service = self.home
        self.keep_alive = (
            request.keep_alive and service.parameters.persist_client and not self.balancer.draining
        )
        length = request.length
        rest = data[used:] if len(data) > used else b""
        if length:
            self._reading_body = True
            self._body_left = length
            self._chunks = ChunkDecoder(400) if length == CHUNKED else None
            self._start(service)
            if request.expects_continue and self.exchange is not None and not rest:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if rest:
                self.data_received(rest)
        else:
            self._pending = rest
            self._start(service)

    def _start(self, service: Service) -> None:
        service.requests += 1
        if "start_http_request" in service.hooks.by_point and service.hooks.run(
            "start_http_request", self
        ):
            return
        if service.role is None:
            self.error(503)
        else:
            service.role.start(self)

    def hand_over(self, service: Service) -> None:
        """Give the request to another service, as a selector does."""
        self.service = service
        self._start(service)

    def _body(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        if self._chunks is not None:
            self._chunked(exchange, self._chunks, data)
            return
        if self._body_left == _ENDLESS:
            exchange.body(data)
            return
        left = self._body_left - len(data)
        if left < 0:
            self._pending = data[left:]
            data = data[:left]
            left = 0
        self._body_left = left
        if not left:
            self._reading_body = False
        exchange.body(data)
        if not left and self.exchange is exchange:
            exchange.body_done()

    def _chunked(self, exchange: Exchange, chunks: ChunkDecoder, data: bytes) -> None:
        try:
            piece = chunks.feed(data)
            # What is left counts down from -1: the size so far.
            self._body_left -= len(piece)
            limit = self.service.parameters.max_chunked_request_size
            if limit and -1 - self._body_left > limit:
                raise BadMessage(413, "the body is longer than max_chunked_request_size")
        except BadMessage as error:
            self.exchange = None
            exchange.client_gone()
            self._refuse(error)
            return
        if chunks.done:
            self._reading_body = False
            self._pending = chunks.rest
            self._chunks = None
        if piece:
            exchange.body(piece)
        if chunks.done and self.exchange is exchange:
            exchange.body_done()

    def tunnel(self) -> None:
        """From now on, what comes is passed on as it is."""
        self.keep_alive = False
        self._reading_body = True
        self._body_left = _ENDLESS
        self._chunks = None
        pending, self._pending = self._pending, b""
        self.resume_reading()
        if pending and self.exchange is not None:
            self.exchange.body(pending)

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

    # -- responses ----------------------------------------------------------------

    def answer(
        self, status: int, fields: tuple[tuple[str, str], ...] = (), body: bytes = b""
    ) -> None:
        """Send a whole response, and be done with the request.

        Args:
            status: 200 to 599.
            fields: besides Date, Server, Content-Length and Connection.
            body: is not sent as an answer to HEAD, and with 204 and 304.
        """
        parts = [head(status, fields), date_field()]
        if self.service.parameters.server_tokens:
            parts.append(SERVER)
        if self._reading_body:
            self.keep_alive = False
        if status not in (204, 304):
            parts.append(b"Content-Length: %d\r\n" % len(body))
        parts.append(connection_field(self.keep_alive, self.request.minor))
        if self.request.method != b"HEAD" and status not in (204, 304):
            parts.append(body)
        self.transport.write(b"".join(parts))
        self.done()

    def error(self, status: int, why: str = "") -> None:
        """Answer with an error's page."""
        kind = ("Content-Type", "text/html; charset=utf-8")
        self.answer(status, (kind,), error_page(status, why))

    def done(self) -> None:
        """The response has been written: go on with the next request, or close."""
        self.exchange = None
        self._deadline = self.balancer.now + self.home.parameters.persist_client_idle_timeout
        if not self.keep_alive or self._reading_body:
            self._finish()
        elif self._pending or self._paused:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Look at what has come in the meantime."""
        if self.closing or self.exchange is not None:
            return
        pending, self._pending = self._pending, b""
        self.resume_reading()
        if pending:
            self._head(pending)

    def _refuse(self, error: BadMessage) -> None:
        """Answer what can't be read, and close."""
        log.info("refused: %s", error, extra={"peer": self.peer, "service": self.home.name})
        self.keep_alive = False
        self._reading_body = True
        self.request = _NO_REQUEST
        self.error(error.status, str(error))

    def _finish(self) -> None:
        """Close as soon as the response has left; give the client time to read it."""
        self.closing = True
        self._deadline = self.balancer.now + LINGER_S
        if self._reading_body and self.transport.can_write_eof():
            self.resume_reading_for_good()
            self.transport.write_eof()
        else:
            self.transport.close()

    def resume_reading_for_good(self) -> None:
        """Let what still comes be thrown away."""
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def cut_off(self) -> None:
        """Close in the middle of a response: what has been sent leaves, no more comes."""
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
                    self.closing = True
                    self.transport.close()
        elif self._body_left == _ENDLESS and self._reading_body:
            return  # a tunnel may be silent
        elif now - self.last_input > self.service.parameters.idle_timeout and (
            self.full or self.has_file or (self._reading_body and not self._paused)
        ):
            log.info("cut off: it keeps us waiting", extra={"peer": self.peer})
            self.abort()

    def drain(self) -> None:
        """Finish what is going on, then close."""
        self.keep_alive = False
        if self.exchange is None and not self._partial and not self.closing:
            self.closing = True
            self.transport.close()

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
    def unsent(self) -> int:
        """Bytes that wait for it to read."""
        return int(self.transport.get_write_buffer_size())

    @property
    def has_file(self) -> bool:
        """Whether it is being sent a file."""
        return self.exchange is not None and self.exchange.has_file

    @property
    def fd(self) -> int:
        """The socket's number."""
        return _fd(self.transport)

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


def _fd(transport: Any) -> int:
    connected = transport.get_extra_info("socket")
    return connected.fileno() if connected is not None else -1


_ENDLESS: Final = 1 << 62
"""What is left of a body that is a tunnel."""
_NO_REQUEST: Final = RequestHead(b"GET", b"/", 1)
