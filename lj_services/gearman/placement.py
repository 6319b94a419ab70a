"""Which of many job servers a task goes to, and which ones are left out.

A task with a unique key starts at the server that the key's CRC-32 names, so that
equal tasks of different programs meet on one server and run once.  Perl's
Gearman::Client places keys in the same way; programs share it if they list the same
servers in the same order.  A task without a key goes to the next server in turn.
From there on the other servers follow in the order of the list.

A server that failed is left out for a while.  When all are left out, all are tried:
a late answer is better than none.

Source: Gearman::Task 2.004 (Perl), observed from outside.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from zlib import crc32

from lj_services.daemon import HostPort

DEFAULT_PORT = 4730

Address = HostPort | str


def parse_servers(servers: Sequence[Address]) -> tuple[HostPort, ...]:
    """Addresses as ``HOST:PORT`` or ``HOST``, whose port is then 4730.

    Raises:
        ValueError: there are none, one is there twice, or one is no address.
    """
    if isinstance(servers, str):
        servers = [servers]
    parsed = tuple(
        server if isinstance(server, HostPort) else _parse(server.strip()) for server in servers
    )
    if not parsed:
        raise ValueError("there is no job server; name one, for example 127.0.0.1:4730")
    if len(set(parsed)) < len(parsed):
        raise ValueError(f"a job server is listed twice: {', '.join(map(str, parsed))}")
    return parsed


def _parse(text: str) -> HostPort:
    bare = ":" not in text or text.endswith("]")
    return HostPort.parse(f"{text}:{DEFAULT_PORT}" if bare else text)


def key_hash(key: bytes) -> int:
    """The number, 0..32767, that places a unique key: `number % servers` is where it starts."""
    return crc32(key) >> 16 & 0x7FFF


class Placement:
    """The servers of a client, and which of them failed lately; for many threads at once."""

    def __init__(
        self,
        servers: Sequence[HostPort],
        *,
        dead_retry_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            servers: in the same order in every program that is to share unique keys.
            dead_retry_s: how long a server that failed is left out, in seconds.
            clock: seconds, monotonic.
        """
        self.servers = tuple(servers)
        self._dead_retry_s = dead_retry_s
        self._clock = clock
        self._lock = threading.Lock()
        self._dead_until: dict[HostPort, float] = {}
        # Programs that start together shall not all begin with the first server.
        self._turn = random.randrange(len(self.servers))  # noqa: S311

    def order(self, key: bytes) -> list[HostPort]:
        """All servers, in the order in which a task with `key` (empty: none) tries them.

        Those that failed lately come last.
        """
        count = len(self.servers)
        if key:
            start = key_hash(key) % count
        else:
            with self._lock:
                start = self._turn
                self._turn = (start + 1) % count
        around = [self.servers[(start + step) % count] for step in range(count)]
        if not self._dead_until:
            return around
        return sorted(around, key=self.is_dead)

    def is_dead(self, server: HostPort) -> bool:
        """Whether a server failed less than `dead_retry_s` ago."""
        until = self._dead_until.get(server)
        return until is not None and self._clock() < until

    def failed(self, server: HostPort) -> None:
        """Leave a server out."""
        with self._lock:
            self._dead_until[server] = self._clock() + self._dead_retry_s

    def answered(self, server: HostPort) -> None:
        """Take a server in again."""
        if server in self._dead_until:
            with self._lock:
                self._dead_until.pop(server, None)
