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

Its pace, its end, and slow clients are `connection`'s business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from lj_services.perlbal.answering import Exchange
from lj_services.perlbal.connection import ENDLESS, LINGER_S, NO_REQUEST, HttpConnection
from lj_services.perlbal.http.answers import (
    SERVER,
    connection_field,
    date_field,
    error_page,
    head,
    own_page,
)
from lj_services.perlbal.http.chunked import ChunkDecoder
from lj_services.perlbal.http.errors import BadMessage
from lj_services.perlbal.http.head import CHUNKED, MAX_HEAD
from lj_services.perlbal.http.incomplete import check_more
from lj_services.perlbal.http.parse import parse_request

if TYPE_CHECKING:
    from lj_services.perlbal.service import Service

log = logging.getLogger(__name__)


class ClientConnection(HttpConnection):
    """One client that speaks HTTP/1 to a service."""

    __slots__ = ()

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
        home = self.home
        service = self.service = home if self.service is home else self._next_service()
        self.keep_alive = (
            request.keep_alive and home.parameters.persist_client and not self.balancer.draining
        )
        if home.access_log is not None:
            self.count()
        length = request.length
        rest = data[used:] if len(data) > used else b""
        if length:
            self._reading_body = True
            self._unwanted = False
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
        hooks = service.hooks
        if hooks.by_point:
            self.request.own()
            if "start_http_request" in hooks and hooks.run("start_http_request", self):
                return
        if service.role is None:
            self.error(503)
        else:
            service.role.start(self)

    def _next_service(self) -> Service:
        """Who has the request behind one that a selector has handed over: the selector, mostly."""
        hooks = self.home.hooks
        stays = "return_to_base" in hooks and hooks.run("return_to_base", self)
        return self.service if stays else self.home

    def hand_over(self, service: Service) -> None:
        """Give the request to another service, as a selector does."""
        self.service = service
        self._start(service)

    def drop_body(self) -> None:
        """Make the request one without a body, for who answers it from now on.

        What has come of the body went elsewhere, and what still comes is thrown away: who is
        given the rest of a body without its beginning would take it for requests.
        """
        if self.request.length:
            self.request.length = 0
            self.request.remove(b"content-length")
            self._unwanted = self._reading_body

    def start_with(self, start: Callable[[], None], pieces: list[bytes], *, whole: bool) -> None:
        """Have the request answered by who has not seen its body yet.

        Args:
            start: gives the request to somebody.
            pieces: of the body, which have come already.
            whole: whether they are all of it.
        """
        self._reading_body = self._reading_body or bool(pieces)
        start()
        exchange = self.exchange
        for piece in pieces:
            if exchange is not None and exchange is self.exchange:
                exchange.body(piece)
        if whole:
            self._reading_body = False
            if pieces and exchange is not None and exchange is self.exchange:
                exchange.body_done()

    def _body(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        if self._chunks is not None:
            self._chunked(exchange, self._chunks, data)
            return
        if self._body_left == ENDLESS:
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
        if self._unwanted:
            return
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
            if exchange.responded:
                self.cut_off()
            else:
                self._refuse(error)
            return
        if chunks.done:
            self._reading_body = False
            self._pending = chunks.rest
            self._chunks = None
        if self._unwanted:
            return
        if piece:
            exchange.body(piece)
        if chunks.done and self.exchange is exchange:
            exchange.body_done()

    def tunnel(self) -> None:
        """From now on, what comes is passed on as it is."""
        self.may_be_silent()
        self.keep_alive = False
        self._reading_body = True
        self._body_left = ENDLESS
        self._chunks = None
        pending, self._pending = self._pending, b""
        self.resume_reading()
        if pending and self.exchange is not None:
            self.exchange.body(pending)

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
        own = own_page(self.service.parameters.error_pages, status)
        self.answer(status, (kind,), error_page(status, why) if own is None else own)

    def done(self) -> None:
        """The response has been written: go on with the next request, or close."""
        self.exchange = None
        if self._counted is not None:
            self.logged(whole=True)
        self._deadline = self.balancer.now + self.home.parameters.persist_client_idle_timeout
        if self.keep_alive and self.balancer.draining and not self._pending:
            self.drain(self.balancer.idle_s)
        elif not self.keep_alive or self._reading_body:
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
        self.request = NO_REQUEST
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
