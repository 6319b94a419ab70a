"""How many clients a daemon serves at once, and how long a silent one may stay.

A protocol registers its transport when the connection is made and notes the
time of each piece of input; a single sweep over all connections cuts off the
idle ones.  That costs an attribute write per input instead of a timer each.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from prometheus_client import Counter, Gauge

log = logging.getLogger(__name__)

CONNECTIONS = Gauge("lj_connections", "Client connections open now", ["service"])
REFUSED = Counter("lj_connections_refused", "Clients refused over max_connections", ["service"])
IDLED_OUT = Counter("lj_connections_idled_out", "Clients cut off after idle_timeout_s", ["service"])


class Client(Protocol):
    """What `ConnectionLimits` must know of one connection."""

    last_input: float
    """Loop time (seconds) of the newest input from the client."""

    def close(self) -> None:
        """Cut the client off; may be called more than once."""


class ConnectionLimits:
    """The open connections of one listener, bounded in number and idle time."""

    def __init__(self, service: str, max_connections: int, idle_timeout_s: float = 0.0) -> None:
        """
        Args:
            service: label of the metrics, for example ``memcached``.
            max_connections: connections open at once.
            idle_timeout_s: seconds of silence allowed; 0 means for ever.
        """
        self.max_connections = max_connections
        self.idle_timeout_s = idle_timeout_s
        self._clients: set[Client] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._open = CONNECTIONS.labels(service)
        self._refused = REFUSED.labels(service)
        self._idled_out = IDLED_OUT.labels(service)
        self._service = service

    def __len__(self) -> int:
        return len(self._clients)

    def admit(self, client: Client) -> bool:
        """Count `client` in; False when the limit is reached and it must be turned away."""
        if len(self._clients) >= self.max_connections:
            self._refused.inc()
            log.warning(
                "client refused: max_connections reached",
                extra={"service": self._service, "max_connections": self.max_connections},
            )
            return False
        self._clients.add(client)
        self._empty.clear()
        self._open.set(len(self._clients))
        if self.idle_timeout_s and self._sweeper is None:
            self._schedule()
        return True

    def forget(self, client: Client) -> None:
        """Count `client` out; harmless for one that was never admitted."""
        self._clients.discard(client)
        self._open.set(len(self._clients))
        if not self._clients:
            self._empty.set()

    def close_all(self) -> None:
        """Cut off every client that is left, and stop sweeping."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for client in list(self._clients):
            client.close()

    async def wait_empty(self) -> None:
        """Wait until no client is connected."""
        await self._empty.wait()

    def _schedule(self) -> None:
        delay = max(0.05, min(self.idle_timeout_s / 4, 5.0))
        self._sweeper = asyncio.get_running_loop().call_later(delay, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        oldest = asyncio.get_running_loop().time() - self.idle_timeout_s
        for client in [client for client in self._clients if client.last_input < oldest]:
            self._idled_out.inc()
            client.close()
        if self._clients:
            self._schedule()
