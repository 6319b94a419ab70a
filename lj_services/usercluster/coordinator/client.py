"""The other end of the protocol: a blocking client, for workers, hosts and the operator's command.

One request at a time: `Client.call` waits for its reply.  Events that come between are kept for
whoever asks (`Client.events`).  Thread-safe.
"""

from __future__ import annotations

import select
import socket
import threading
from collections import deque

from lj_services.daemon import HostPort
from lj_services.database import DatabaseError, Databases
from lj_services.usercluster.coordinator.errors import Away, OrderRefused
from lj_services.usercluster.coordinator.lock import ruling
from lj_services.usercluster.coordinator.protocol import (
    Event,
    ProtocolError,
    Reply,
    ReplyReader,
    request,
)

TIMEOUT_S = 20.0
CONNECT_TIMEOUT_S = 3.0
MOST_EVENTS = 10_000


class Client:
    """A connection to the coordinator.

    Args:
        address: where it is.
        timeout_s: seconds that a reply may take.

    Raises:
        Away: it can't be reached, or is something else.
    """

    def __init__(self, address: HostPort, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._reader = ReplyReader()
        self._heard: deque[Reply] = deque()
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        try:
            self._socket = socket.create_connection(
                (address.host, address.port), timeout=CONNECT_TIMEOUT_S
            )
        except OSError as error:
            raise Away(f"no coordinator at {address}: {error.strerror or error}") from None
        self._socket.settimeout(timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def open(self) -> bool:
        """Whether nothing has shown yet that the connection broke."""
        return self._socket.fileno() >= 0

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def call(self, command: str, *words: object, **fields: object) -> Reply:
        """Send a request and wait for its reply.

        Raises:
            OrderRefused: the reply is an ``ERR``.
            Away: the connection broke; whether the request was carried out is not known.
        """
        return self.send(request(command, *words, **fields))

    def send(self, line: bytes) -> Reply:
        """As `call`, for a line that is written already."""
        with self._lock:
            try:
                self._socket.sendall(line)
                while not self._heard:
                    self._receive()
            except (OSError, ProtocolError) as error:
                self.close()
                raise Away(f"the coordinator at {self.address} is gone: {error}") from None
            reply = self._heard.popleft()
        if reply.error is not None:
            raise OrderRefused(reply.error, reply.text)
        return reply

    def events(self, timeout_s: float) -> list[Event]:
        """What happened; waits so long for the first event, in seconds.

        Raises:
            Away: the connection broke.
        """
        with self._lock:
            try:
                if not self._events and select.select([self._socket], [], [], timeout_s)[0]:
                    self._receive()
            except (OSError, ValueError, ProtocolError) as error:
                self.close()
                raise Away(f"the coordinator at {self.address} is gone: {error}") from None
            found = list(self._events)
            self._events.clear()
            return found

    def _receive(self) -> None:
        data = self._socket.recv(1 << 16)
        if not data:
            raise ProtocolError("it hung up")
        for one in self._reader.feed(data):
            if isinstance(one, Event):
                self._events.append(one)
            else:
                self._heard.append(one)


def find(databases: Databases) -> HostPort | None:
    """Where the coordinator is that rules now, as `global` says; None: there is none.

    Raises:
        DatabaseError: ``global`` can't be reached.
    """
    found = ruling(databases)
    if found is None or found[0] is None:
        return None
    try:
        return HostPort.parse(found[0])
    except ValueError:
        return None


def poke(databases: Databases) -> bool:
    """Let the coordinator know that something was changed in `global`; whether there is one."""
    try:
        address = find(databases)
        if address is None:
            return False
        client = Client(address, timeout_s=5.0)
        try:
            client.call("refresh")
        finally:
            client.close()
    except (Away, OrderRefused, DatabaseError):
        return False
    return True
