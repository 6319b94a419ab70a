"""The embedded memcached server: connections in, requests to the engine, replies out.

Theory of operation
===================

A read is fed to the connection's parser; the requests that are complete are
carried out one after the other, and their replies leave in one write
(`Connection._work`).  The engine never waits, so a request is done before the
next one is looked at, whoever sent it.

A client that asks but doesn't read must not fill memory.  Replies are gathered
in portions; once one is too large for the transport's buffer, the connection
pauses: it reads nothing more, and takes no request out of its parser, until the
transport says that the client has read (`resume_writing`).  What is waiting
then is references to values that are in the cache anyway, plus the transport's
buffer.

A client that sends half a value is charged for it (`Items.reserve`): what
arrives counts against the memory limit like what is stored, and pushes out the
least recently used items.  Beyond half of the limit such values are refused.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
from collections import deque
from itertools import count
from typing import Any, Final

from prometheus_client import REGISTRY

import lj_services
from lj_services.daemon import ConfigError, ConnectionLimits
from lj_services.memcached.config import ServerSettings
from lj_services.memcached.engine import Engine
from lj_services.memcached.items import Items
from lj_services.memcached.metrics import ServerMetrics
from lj_services.memcached.protocol.parser import RequestParser
from lj_services.memcached.statistics import Counters, Statistics

PROTOCOL_LEVEL: Final = "1.6.18"
VERSION: Final = f"{PROTOCOL_LEVEL}-lj-{lj_services.__version__}"
"""What ``version`` answers: the memcached whose protocol this is, then the kit's own."""

TICK_S: Final = 0.1
"""How often time passes for the items, in seconds."""

BACKLOG: Final = 1024
SPARE_FILES: Final = 64
"""Open files beside the clients': the listeners, the log, the event loop's own."""
PORTION_REPLIES: Final = 512
"""How many pieces of replies are gathered before they are written."""
PORTION_BYTES: Final = 1 << 18
"""How much is handed to the transport at once, in bytes."""

log = logging.getLogger(__name__)


class MemcachedService:
    """The server's life: what `lj_services.daemon.run_service` starts and ends."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._loop = asyncio.get_running_loop()
        self.items = Items(settings.memory_limit, self._loop.time())
        self.counters = Counters()
        statistics = Statistics(
            self.items, self.counters, lambda: self.settings, self._describe_clients, VERSION
        )
        self.engine = Engine(
            self.items,
            self.counters,
            max_item=settings.max_item_size,
            version=VERSION,
            stats=statistics.reply,
            shutdown=_stop_process if settings.shutdown_command else None,
        )
        self.limits = ConnectionLimits(
            "memcached", settings.max_connections, settings.idle_timeout_s
        )
        self.connections: dict[int, Connection] = {}
        self.numbers = count(1)
        self.draining = False
        self._metrics = ServerMetrics(self.items, self.counters)
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Listen."""
        # Items that are let go are never part of a cycle (they are unlinked from the wheel
        # first), so the collector would walk millions of them in vain; the young
        # generations are enough for the rest.
        gc.set_threshold(10_000, 10, 1_000_000)
        _allow_open_files(self.settings.max_connections + SPARE_FILES)
        address = self.settings.listen
        self._server = await self._loop.create_server(
            lambda: Connection(self), address.host, address.port, backlog=BACKLOG
        )
        REGISTRY.register(self._metrics)
        self._tick()

    async def drain(self) -> None:
        """Stop listening, and wait until each client has read its replies."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections.values()):
            connection.finish()
        await self.limits.wait_empty()

    async def close(self) -> None:
        """Cut off who is left, and forget everything."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._server is not None:
            self._server.close()
            REGISTRY.unregister(self._metrics)
            self._server = None
        self.limits.close_all()

    def reload(self, settings: ServerSettings) -> None:
        """Take over the memory limit, the limits of connections and the log level.

        Raises:
            ConfigError: a setting was changed that needs a restart.
        """
        for fixed in ("listen", "metrics_listen", "max_item_size", "shutdown_command"):
            if getattr(settings, fixed) != getattr(self.settings, fixed):
                raise ConfigError(f"{fixed}: can't change while the server runs; restart it")
        self.settings = settings
        self.items.limit = settings.memory_limit
        self.limits.max_connections = settings.max_connections
        self.limits.idle_timeout_s = settings.idle_timeout_s

    def may_hold(self, change: int) -> bool:
        """Charge `change` bytes more of unfinished requests, if that is still allowed."""
        items = self.items
        if change > 0 and 2 * (items.reserved + change) > items.limit:
            self.counters.store_no_memory += 1
            return False
        items.reserve(change)
        return True

    def _tick(self) -> None:
        more = self.items.advance(self._loop.time())
        delay = 0.001 if more else TICK_S
        self._ticker = self._loop.call_later(delay, self._tick)

    def _describe_clients(self) -> list[tuple[int, str, float]]:
        now = self._loop.time()
        return [
            (number, connection.peer, now - connection.last_input)
            for number, connection in self.connections.items()
        ]


def _allow_open_files(number: int) -> None:
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


def _stop_process() -> None:
    signal.raise_signal(signal.SIGTERM)


class Connection(asyncio.Protocol):
    """One client."""

    __slots__ = (
        "_closing",
        "_counters",
        "_get",
        "_handlers",
        "_held",
        "_items",
        "_last",
        "_number",
        "_parser",
        "_service",
        "_transport",
        "_waiting",
        "_writable",
        "last_input",
    )

    def __init__(self, service: MemcachedService) -> None:
        self._service = service
        self._get = service.engine.get
        self._handlers = service.engine.handlers
        self._counters = service.counters
        self._items = service.items
        self._parser = RequestParser(service.settings.max_item_size)
        self._transport: Any = None
        self._number = 0
        self._held = 0  # bytes of unfinished requests that the items were charged for
        self._waiting: deque[bytes] = deque()  # replies that the transport has no room for
        self._writable = True
        self._last = False  # whether nothing is read any more
        self._closing = False  # whether nothing is done any more
        self.last_input = service.items.now

    @property
    def peer(self) -> str:
        """The client's address, as ``stats conns`` shows it."""
        name = self._transport.get_extra_info("peername") if self._transport else None
        return f"tcp:{name[0]}:{name[1]}" if name else "gone"

    # -- what the event loop calls ------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the client in, or turn it away."""
        self._transport = transport
        service = self._service
        if service.draining or not service.limits.admit(self):
            service.counters.rejected_connections += 1
            self._transport.write(b"ERROR Too many open connections\r\n")
            self._transport.close()
            self._closing = True
            return
        service.counters.total_connections += 1
        self._number = next(service.numbers)
        service.connections[self._number] = self

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the client out, and let go of what it left behind."""
        self._closing = True
        self._waiting.clear()
        self._service.connections.pop(self._number, None)
        self._service.limits.forget(self)
        self._service.may_hold(-self._held)
        self._held = 0

    def data_received(self, data: bytes) -> None:
        """Carry out what is complete."""
        self.last_input = self._items.now
        self._counters.bytes_read += len(data)
        if self._closing:
            return
        parser = self._parser
        if self._writable and (keys := parser.lone_get(data)) is not None:
            out: list[bytes] = []
            self._get(keys, out)
            self._send(out)
            return
        parser.feed(data)
        self._work()
        if not parser.idle or self._held:
            self._charge()

    def pause_writing(self) -> None:
        """The client doesn't read: ask nothing more of it."""
        self._writable = False
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client has read: send what waits, then go on."""
        self._writable = True
        if self._waiting:
            self._send_waiting()
        if self._writable and not self._closing:
            self._work()
        if not self._writable or self._closing:
            return
        if self._last:
            self._end()
        else:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """The client sends no more: it still gets the replies that are due."""
        self.finish()
        return True

    # -- the work -----------------------------------------------------------------

    def _work(self) -> None:
        """Carry out requests until there is none, or the client doesn't read."""
        next_request = self._parser.next_request
        handlers = self._handlers
        while self._writable:
            out: list[bytes] = []
            close = None
            while (request := next_request()) is not None:
                close = handlers[type(request)](request, out)
                if close or len(out) > PORTION_REPLIES:
                    break
            if out:
                self._send(out)
            if close:
                self._end()
                return
            if request is None:
                return

    def _send(self, out: list[bytes]) -> None:
        size = sum(map(len, out))
        if size > PORTION_BYTES:
            self._waiting.extend(out)
            self._send_waiting()
            return
        self._counters.bytes_written += size
        self._transport.write(b"".join(out))

    def _send_waiting(self) -> None:
        """Hand portions to the transport until it says that the client doesn't keep up."""
        waiting = self._waiting
        while waiting and self._writable:
            portion: list[bytes] = []
            size = 0
            while waiting and size < PORTION_BYTES:
                size += len(waiting[0])
                portion.append(waiting.popleft())
            self._counters.bytes_written += size
            self._transport.write(b"".join(portion))
        if self._closing and not waiting:
            self._transport.close()

    def _charge(self) -> None:
        """Have the memory of unfinished requests counted, or let go of them."""
        held = self._parser.held
        if held == self._held:
            return
        if self._service.may_hold(held - self._held):
            self._held = held
            return
        refusal = self._parser.give_up_held()
        self._service.may_hold(-self._held)
        self._held = 0
        self._send([refusal.reply])
        if refusal.close:
            self._end()

    def finish(self) -> None:
        """Close when what has been received is done and the client has its replies."""
        self._last = True
        if self._writable and not self._closing:
            self._end()

    def _end(self) -> None:
        """Do nothing more; close when the client has its replies."""
        self._closing = True
        if not self._waiting:
            self._transport.close()

    def close(self) -> None:
        """Cut the client off."""
        self._closing = True
        self._waiting.clear()
        if self._transport is not None:
            self._transport.abort()
