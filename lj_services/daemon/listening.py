"""A daemon that listens: connections in, within limits; nobody is waited for, nobody fills memory.

::

    class EchoService(TcpService[EchoSettings]):
        fixed = (*TcpService.fixed, "max_line")

        def __init__(self, settings: EchoSettings) -> None:
            super().__init__("echo", settings)

        def make_connection(self) -> Echo:
            return Echo(self)

    class Echo(TcpConnection):
        def data_received(self, data: bytes) -> None:
            self._transport.write(data)

        def work(self) -> None:
            '''Nothing waits: what comes is answered at once.'''

`TcpService` is what `run_service` starts and ends.  It opens its listeners, lets time pass
(`TcpService.tick`), and when it drains it listens no more, waits for what is in flight
(`TcpService.settle`) and ends each connection when its client has all answers.

`TcpConnection` is one client.  Its rules:

- a client over the limit is turned away, and never `admitted`;
- a client that asks but doesn't read is not asked any further: while its transport is full,
  nothing is read from it, and `work` is not called; it is when the client has read;
- a client that has sent its last byte still gets the answers that are due.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
from collections.abc import Callable
from typing import Any, ClassVar, Final, Generic, TypeVar

from prometheus_client import REGISTRY
from prometheus_client.registry import Collector

from lj_services.daemon.config import ConfigError, DaemonSettings, HostPort
from lj_services.daemon.limits import ConnectionLimits

BACKLOG: Final = 1024
"""Connections that may wait to be accepted."""
SPARE_FILES: Final = 64
"""Open files beside the clients': the listeners, the log, the event loop's own."""
TICK_S: Final = 0.1
"""How often time passes unless a service says otherwise, in seconds."""

log = logging.getLogger(__name__)

S = TypeVar("S", bound=DaemonSettings)


class TcpService(Generic[S]):
    """The life of a daemon with TCP clients; made inside its event loop.

    Args:
        name: of the service, for its metrics (``memcached``).
        settings: of the daemon.
    """

    fixed: ClassVar[tuple[str, ...]] = ("listen", "metrics_listen")
    """Settings that can't change while it runs."""

    def __init__(self, name: str, settings: S) -> None:
        self.settings = settings
        self.limits = ConnectionLimits(name, settings.max_connections, settings.idle_timeout_s)
        self.clients: dict[TcpConnection, None] = {}
        """Who is connected, the longest first."""
        self.draining = False
        """Whether clients are turned away because the daemon is about to end."""
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._collectors: list[Collector] = []
        self._ticker: asyncio.TimerHandle | None = None

    # -- what a service fills in --------------------------------------------------

    def make_connection(self) -> TcpConnection:
        """A connection that is about to be made."""
        raise NotImplementedError

    def tick(self) -> float:
        """Let time pass; called from `start` on.

        Returns:
            seconds until the next call.
        """
        return TICK_S

    async def settle(self) -> None:
        """Return when what is in flight is finished; no new clients come."""

    def apply(self, settings: S) -> None:
        """Take over what the settings' change means; `settings` are in place."""

    # -- its life -----------------------------------------------------------------

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address can't be bound.
        """
        allow_open_files(self.settings.max_connections + SPARE_FILES)
        await self.listen(self.settings.listen, self.make_connection)
        self._pass_time()

    async def listen(self, address: HostPort, factory: Callable[[], asyncio.Protocol]) -> None:
        """Open a listener; `drain` and `close` close it."""
        self._servers.append(
            await self._loop.create_server(factory, address.host, address.port, backlog=BACKLOG)
        )

    def show_metrics(self, collector: Collector) -> None:
        """Have a collector asked for its figures until the service is closed."""
        REGISTRY.register(collector)
        self._collectors.append(collector)

    async def drain(self) -> None:
        """Stop listening, and wait until each client has its answers."""
        self.draining = True
        for server in self._servers:
            server.close()
        await self.settle()
        for client in list(self.clients):
            client.finish()
        await self.limits.wait_empty()

    async def close(self) -> None:
        """Cut off who is left, and forget everything."""
        if self._ticker is not None:
            self._ticker.cancel()
        for server in self._servers:
            server.close()
        self._servers.clear()
        while self._collectors:
            REGISTRY.unregister(self._collectors.pop())
        self.limits.close_all()

    def reload(self, settings: S) -> None:
        """Take over the settings that can change in a running daemon.

        Raises:
            ConfigError: a setting was changed that needs a restart.
        """
        for name in self.fixed:
            if getattr(settings, name) != getattr(self.settings, name):
                raise ConfigError(f"{name}: can't change while the server runs; restart it")
        self.settings = settings
        self.limits.max_connections = settings.max_connections
        self.limits.idle_timeout_s = settings.idle_timeout_s
        self.apply(settings)

    def now(self) -> float:
        """The loop's time, in seconds."""
        return self._loop.time()

    def _pass_time(self) -> None:
        self._ticker = self._loop.call_later(self.tick(), self._pass_time)


class TcpConnection(asyncio.Protocol):
    """One client.

    Args:
        service: that it belongs to.
    """

    __slots__ = ("_admitted", "_closing", "_host", "_last", "_transport", "_writable", "last_input")

    def __init__(self, service: TcpService[Any]) -> None:
        self._host = service
        self._transport: Any = None
        self._admitted = False
        self._writable = True
        self._last = False  # whether nothing is read any more
        self._closing = False  # whether nothing is done any more
        self.last_input = service.now()

    # -- what a protocol fills in -------------------------------------------------

    def work(self) -> None:
        """Go on with what the client has sent, now that it reads again."""
        raise NotImplementedError

    def admitted(self) -> None:
        """The client is counted in."""

    def turned_away(self) -> None:
        """The client is not counted in: tell it why, if the protocol has words for that."""

    def departed(self) -> None:
        """A client that was counted in is gone."""

    def ending(self) -> None:
        """The last answers are about to leave: hand over what is still kept back."""

    # -- what the event loop calls ------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the client in, or turn it away."""
        self._transport = transport
        if self._host.draining or not self._host.limits.admit(self):
            self.turned_away()
            self._closing = True
            self._transport.close()
            return
        self._admitted = True
        self._host.clients[self] = None
        self.admitted()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the client out."""
        self._closing = True
        if self._admitted:
            self._admitted = False
            del self._host.clients[self]
            self._host.limits.forget(self)
            self.departed()

    def pause_writing(self) -> None:
        """The client doesn't read: ask nothing more of it."""
        self._writable = False
        if not self._closing:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client has read: go on."""
        self._writable = True
        if not self._closing:
            self.work()
        if not self._writable or self._closing:
            return
        if self._last:
            self.end()
        else:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """The client sends no more: it still gets the answers that are due."""
        self.finish()
        return True

    # -- its end ------------------------------------------------------------------

    def finish(self) -> None:
        """Close when what has been received is done and the client has its answers."""
        self._last = True
        if self._writable and not self._closing:
            self.end()

    def end(self) -> None:
        """Do nothing more; close when the client has its answers."""
        self.ending()
        self._closing = True
        self._transport.close()

    def close(self) -> None:
        """Cut the client off."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()


def spare_the_collector() -> None:
    """Have the cyclic collector look at young objects only.

    For daemons that keep millions of objects which are never part of a cycle when they are let
    go: it would walk them all, again and again, in vain.
    """
    gc.set_threshold(10_000, 10, 1_000_000)


def allow_open_files(number: int) -> None:
    """Raise this process's soft limit of open files to `number`, as far as the hard one lets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        allowed = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < number:
            log.warning(
                "too few open files for max_connections; raise the hard limit (ulimit -Hn)",
                extra={"allowed": allowed, "wanted": number},
            )
