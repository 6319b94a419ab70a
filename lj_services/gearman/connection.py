"""A client's or worker's connection to one job server: bytes out, packets in.

`Connection` is made blocking (within `connect_timeout_s`) and is then non-blocking, so
that one thread can serve many of them with a selector.  `Wire` is what it has in common
with the one of asyncio (`async_connection`), and knows no sockets.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator

from lj_services.daemon import HostPort
from lj_services.gearman.client_errors import (
    BadAnswer,
    BadTask,
    ConnectionLost,
    ServerUnreachable,
)
from lj_services.gearman.protocol import (
    Line,
    Magic,
    Packet,
    PacketParser,
    PacketType,
    ProtocolError,
    request,
)

_READ = 1 << 16
_KEEPALIVE_IDLE_S = 30
_KEEPALIVE_INTERVAL_S = 10
_KEEPALIVE_PROBES = 3


class Wire:
    """Packets to bytes and back for one server, with what goes wrong as the client's errors."""

    def __init__(self, server: HostPort) -> None:
        self.server = server
        self._parser = PacketParser(Magic.RESPONSE)

    def packed(self, kind: PacketType, *args: bytes) -> bytes:
        """The bytes of a packet to the server.

        Raises:
            BadTask: there is no such packet, for instance because it is too large.
        """
        try:
            return request(kind, *args)
        except ProtocolError as error:
            raise BadTask(str(error)) from None

    def feed(self, data: bytes) -> None:
        """Take in what was read.

        Raises:
            ConnectionLost: nothing was read: the server closed the connection.
        """
        if not data:
            raise ConnectionLost(f"job server {self.server} closed the connection")
        self._parser.feed(data)

    def packets(self) -> Iterator[Packet]:
        """The packets that have arrived whole.

        Raises:
            BadAnswer: the server sends what is no packet.
        """
        while True:
            try:
                packet = self._parser.next()
            except ProtocolError as error:
                raise BadAnswer(f"job server {self.server}: {error}") from None
            if packet is None:
                return
            if isinstance(packet, Line):
                raise BadAnswer(f"job server {self.server} sent a line of text")
            yield packet


def tune(connected: socket.socket) -> None:
    """Send packets at once, and notice when the server's machine is gone.

    Such a server sends nothing more, and a sleeping worker would wait for it for ever.
    """
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
    ):
        if hasattr(socket, option):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class Connection(Wire):
    """One connection; used by one thread at a time."""

    def __init__(self, server: HostPort, connect_timeout_s: float) -> None:
        """Connect.

        Raises:
            ServerUnreachable: nothing listens there, or not within the time.
        """
        super().__init__(server)
        self._out = bytearray()
        try:
            self.socket = socket.create_connection((server.host, server.port), connect_timeout_s)
        except OSError as error:
            raise ServerUnreachable(f"job server {server}: {error}") from None
        self.socket.setblocking(False)
        tune(self.socket)

    def fileno(self) -> int:
        """For selectors."""
        return self.socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether there is something left to send."""
        return bool(self._out)

    def put(self, kind: PacketType, *args: bytes) -> None:
        """Queue a packet; `flush` sends it.

        Raises:
            BadTask: there is no such packet, for instance because it is too large.
        """
        self._out += self.packed(kind, *args)

    def flush(self) -> None:
        """Send as much as the network takes now.

        Raises:
            ConnectionLost: the server is gone.
        """
        while self._out:
            try:
                sent = self.socket.send(self._out)
            except BlockingIOError:
                return
            except OSError as error:
                raise ConnectionLost(f"job server {self.server}: {error}") from None
            del self._out[:sent]

    def flush_all(self, timeout_s: float) -> None:
        """Send everything; wait up to `timeout_s` seconds for the network to take it.

        Raises:
            ConnectionLost: the server is gone, or takes nothing.
        """
        deadline = time.monotonic() + timeout_s
        self.flush()
        while self._out:
            if not self.wait(max(0.0, deadline - time.monotonic()), write=True):
                raise ConnectionLost(f"job server {self.server} took nothing for {timeout_s:g} s")
            self.flush()

    def wait(self, timeout_s: float | None, *, write: bool = False) -> bool:
        """Wait until there is something to read (or room to write); False: there wasn't."""
        poll = select.poll()
        poll.register(self.socket, select.POLLOUT if write else select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def receive(self) -> bool:
        """Read what is there; False if there was nothing.

        Raises:
            ConnectionLost: the server closed the connection.
        """
        try:
            data = self.socket.recv(_READ)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ConnectionLost(f"job server {self.server}: {error}") from None
        self.feed(data)
        return True

    def close(self) -> None:
        """Close; the server then gives up what this peer asked for, or gives it to others."""
        with contextlib.suppress(OSError):
            self.socket.close()
