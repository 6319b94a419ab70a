"""Connections to cache servers, and exchanges over many of them at once.

Theory of operation
===================

An `Exchange` is one request (which may be many pipelined commands) sent to one
server, and the replies to it.  `run` drives any number of exchanges side by side
in one thread: all sockets are non-blocking, everything is sent as far as it goes,
and one poll waits for whichever can go on.  So the time taken is that of the
slowest server alone; connecting is part of it.  Reading goes on while a long
request is still being sent, because a server that can't get rid of its replies
stops reading.

An exchange ends in one of two ways: with `replies`, when as many closing replies
have come as were expected, or with `error`.  There are two deadlines, one to be
connected and one, from then on, to have all replies: a server that trickles bytes
can't hold a caller for longer than a silent one.

Why replies can't be mixed up: a connection carries one exchange at a time, and it
is usable afterwards only if the exchange got exactly what was expected and not a
byte more (`Connection.clean`).  In every other case, a timeout above all, it is
closed: the late reply goes to nobody.

`sent` says whether any byte may have reached the server: if not, the same request
may be given to another one.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Sequence

from lj_services.memcached.errors import (
    ConnectionLost,
    Fault,
    ProtocolError,
    ServerTimeout,
    ServerUnreachable,
)
from lj_services.memcached.protocol.reply_parser import BadReply, Reply, ReplyParser
from lj_services.memcached.rings import Server

_READ = 1 << 16
_IN_PROGRESS = (errno.EINPROGRESS, errno.EWOULDBLOCK)


class Connection:
    """A non-blocking socket to one server, and the parser of what it says."""

    __slots__ = ("_addresses", "connected", "parser", "server", "sock", "used")

    def __init__(self, server: Server) -> None:
        """Start to connect.

        Raises:
            OSError: the name can't be resolved, or no address can even be tried.
        """
        self.server = server
        self.connected = False
        self.used = False
        """Whether it has carried an exchange before."""
        self.parser = ReplyParser()
        self._addresses = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
        self.sock = self._try_next()

    def _try_next(self) -> socket.socket:
        """A socket on its way to the next of the server's addresses."""
        failure = OSError("no address")
        while self._addresses:
            family, kind, protocol, _, address = self._addresses.pop(0)
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = sock.connect_ex(address)
            if code == 0 or code in _IN_PROGRESS:
                return sock
            sock.close()
            failure = OSError(code, os.strerror(code))
        raise failure

    def finish_connecting(self) -> None:
        """Called when the socket became writable: take note, or try the next address.

        Raises:
            OSError: no address accepts.
        """
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0:
            self.connected = True
            return
        self.sock.close()
        if not self._addresses:
            raise OSError(code, os.strerror(code))
        self.sock = self._try_next()

    @property
    def clean(self) -> bool:
        """Whether the next exchange would start in step."""
        return self.connected and not self.parser.held and not self.parser.replies

    def idle_and_open(self) -> bool:
        """Whether an unused connection is still good: open, and without a stray byte."""
        try:
            self.sock.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        self.sock.close()


class Exchange:
    """One request to one server; `run` fills in how it went."""

    __slots__ = (
        "_rest",
        "connection",
        "deadline",
        "error",
        "expected",
        "replies",
        "request",
        "sent",
        "server",
    )

    def __init__(self, server: Server, request: bytes, expected: int = 1) -> None:
        """
        Args:
            server: whom to ask.
            request: the bytes of all commands.
            expected: how many closing replies they will get.
        """
        self.server = server
        self.request = request
        self.expected = expected
        self.connection: Connection | None = None
        self.replies: list[Reply] = []
        self.error: Fault | None = None
        self.sent = False
        self.deadline = 0.0
        self._rest: bytes | memoryview = request

    def begin(self) -> int:
        """Start on a connection that is open; what to poll for, 0 when it has already failed."""
        connection = self.connection
        assert connection is not None
        try:
            self._send(connection)
        except OSError as error:
            self.fail(error)
            return 0
        return select.POLLIN | select.POLLOUT if self._rest else select.POLLIN

    def advance(self, timeout_s: float) -> int:
        """Send and read as far as it goes without waiting.

        Returns:
            What to poll for; 0 when the exchange has ended.
        """
        connection = self.connection
        assert connection is not None
        try:
            if not connection.connected:
                connection.finish_connecting()
                if not connection.connected:
                    return select.POLLOUT
                self.deadline = time.monotonic() + timeout_s
            if self._rest:
                self._send(connection)
            return self._receive(connection)
        except BadReply as error:
            self.error = ProtocolError(f"{self.server} sent {error}")
        except OSError as error:
            self.fail(error)
        return 0

    def _send(self, connection: Connection) -> None:
        self.sent = True
        try:
            count = connection.sock.send(self._rest)
        except BlockingIOError:
            return
        if count == len(self._rest):
            self._rest = b""
        else:
            self._rest = memoryview(self._rest)[count:]

    def _receive(self, connection: Connection) -> int:
        parser = connection.parser
        while True:
            try:
                data = connection.sock.recv(_READ)
            except BlockingIOError:
                break
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "closed by the server")
            parser.feed(data)
            if parser.closed >= self.expected:
                return self._complete(parser)
            if len(data) < _READ:
                break
        return select.POLLIN | select.POLLOUT if self._rest else select.POLLIN

    def _complete(self, parser: ReplyParser) -> int:
        if parser.closed > self.expected or parser.held or self._rest:
            self.error = ProtocolError(f"{self.server} sent more replies than it was asked for")
        else:
            self.replies = parser.take()
        return 0

    def fail(self, error: OSError) -> None:
        """End the exchange because of what the operating system said."""
        reason = error.strerror or str(error)
        if self.sent:
            self.error = ConnectionLost(f"{self.server} broke off the connection: {reason}")
        else:
            self.error = ServerUnreachable(f"no connection to {self.server}: {reason}")

    def time_out(self) -> None:
        """End the exchange for lack of an answer."""
        if self.sent:
            self.error = ServerTimeout(f"{self.server} did not answer in time")
        else:
            self.error = ServerUnreachable(f"no connection to {self.server}: timed out")


def run(exchanges: Sequence[Exchange], *, connect_timeout_s: float, timeout_s: float) -> None:
    """Drive all exchanges to their end, side by side.

    An exchange whose `connection` is set uses it; the others get a new one.  None is
    closed here: whoever owns the connections looks at `error` and `Connection.clean`.

    Args:
        exchanges: what to do; each gets its `replies` or its `error`.
        connect_timeout_s: longest time until a server is connected, in seconds.
        timeout_s: longest time from then on until all its replies are there, in seconds.
    """
    poll: select.poll | None = None
    waiting: dict[int, tuple[Exchange, int]] = {}
    now = time.monotonic()
    for exchange in exchanges:
        connection = exchange.connection
        if connection is None:
            try:
                exchange.connection = connection = Connection(exchange.server)
            except OSError as error:
                exchange.fail(error)
                continue
        if connection.connected:
            exchange.deadline = now + timeout_s
            wanted = exchange.begin()
        else:
            exchange.deadline = now + connect_timeout_s
            wanted = select.POLLOUT
        if wanted:
            if poll is None:
                poll = select.poll()
            descriptor = connection.sock.fileno()
            poll.register(descriptor, wanted)
            waiting[descriptor] = (exchange, wanted)
    if poll is None:
        return
    while waiting:
        first = min(exchange.deadline for exchange, _ in waiting.values())
        remaining = first - time.monotonic()
        for descriptor, _ in poll.poll(max(0, remaining * 1000)):
            exchange, wanted = waiting[descriptor]
            connection = exchange.connection
            assert connection is not None
            wants = exchange.advance(timeout_s)
            now_at = connection.sock.fileno()
            if wants == wanted and now_at == descriptor:
                continue
            poll.unregister(descriptor)
            del waiting[descriptor]
            if wants:
                poll.register(now_at, wants)
                waiting[now_at] = (exchange, wants)
        now = time.monotonic()
        if now >= first:
            for descriptor in [d for d, (e, _) in waiting.items() if now >= e.deadline]:
                exchange, _ = waiting.pop(descriptor)
                poll.unregister(descriptor)
                exchange.time_out()
