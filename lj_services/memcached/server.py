"""The embedded memcached server: connections in, requests to the engine, replies out.

Theory of operation
===================

A read is fed to the connection's parser; the requests that are complete are
carried out one after the other, and their replies leave in one write
(`Connection.work`).  The engine never waits, so a request is done before the
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

import signal
from collections import deque
from itertools import count
from typing import Final

import lj_services
from lj_services.daemon.listening import TICK_S, TcpConnection, TcpService, spare_the_collector
from lj_services.memcached.config import ServerSettings
from lj_services.memcached.engine import Engine
from lj_services.memcached.items import Items
from lj_services.memcached.metrics import ServerMetrics
from lj_services.memcached.protocol.parser import RequestParser
from lj_services.memcached.statistics import Counters, Statistics

PROTOCOL_LEVEL: Final = "1.6.18"
VERSION: Final = f"{PROTOCOL_LEVEL}-lj-{lj_services.__version__}"
"""What ``version`` answers: the memcached whose protocol this is, then the kit's own."""

PORTION_REPLIES: Final = 512
"""How many pieces of replies are gathered before they are written."""
PORTION_BYTES: Final = 1 << 18
"""How much is handed to the transport at once, in bytes."""


class MemcachedService(TcpService[ServerSettings]):
    """The server's life: what `lj_services.daemon.run_service` starts and ends."""

    fixed = (*TcpService.fixed, "max_item_size", "shutdown_command")

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__("memcached", settings)
        self.items = Items(settings.memory_limit, self.now())
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
        self.numbers = count(1)

    def make_connection(self) -> Connection:
        """A client that is about to connect."""
        return Connection(self)

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address can't be bound.
        """
        spare_the_collector()  # items are unlinked from the wheel before they are let go
        await super().start()
        self.show_metrics(ServerMetrics(self.items, self.counters))

    def apply(self, settings: ServerSettings) -> None:
        """Take over the memory limit."""
        self.items.limit = settings.memory_limit

    def may_hold(self, change: int) -> bool:
        """Charge `change` bytes more of unfinished requests, if that is still allowed."""
        items = self.items
        if change > 0 and 2 * (items.reserved + change) > items.limit:
            self.counters.store_no_memory += 1
            return False
        items.reserve(change)
        return True

    def tick(self) -> float:
        """Let time pass for the items."""
        more = self.items.advance(self.now())
        return 0.001 if more else TICK_S

    def _describe_clients(self) -> list[tuple[int, str, float]]:
        now = self.now()
        return [
            (client.number, client.peer, now - client.last_input)
            for client in self.clients
            if isinstance(client, Connection)
        ]


def _stop_process() -> None:
    signal.raise_signal(signal.SIGTERM)


class Connection(TcpConnection):
    """One client."""

    __slots__ = (
        "_counters",
        "_get",
        "_handlers",
        "_held",
        "_items",
        "_parser",
        "_service",
        "_waiting",
        "number",
    )

    def __init__(self, service: MemcachedService) -> None:
        super().__init__(service)
        self._service = service
        self._get = service.engine.get
        self._handlers = service.engine.handlers
        self._counters = service.counters
        self._items = service.items
        self._parser = RequestParser(service.settings.max_item_size)
        self._held = 0  # bytes of unfinished requests that the items were charged for
        self._waiting: deque[bytes] = deque()  # replies that the transport has no room for
        self.number = 0
        self.last_input = service.items.now

    @property
    def peer(self) -> str:
        """The client's address, as ``stats conns`` shows it."""
        name = self._transport.get_extra_info("peername") if self._transport else None
        return f"tcp:{name[0]}:{name[1]}" if name else "gone"

    # -- what the event loop calls ------------------------------------------------

    def admitted(self) -> None:
        """Give the client its number."""
        self._counters.total_connections += 1
        self.number = next(self._service.numbers)

    def turned_away(self) -> None:
        """Say why."""
        self._counters.rejected_connections += 1
        self._transport.write(b"ERROR Too many open connections\r\n")

    def departed(self) -> None:
        """Let go of what the client left behind."""
        self._waiting.clear()
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
        self.work()
        if not parser.idle or self._held:
            self._charge()

    def resume_writing(self) -> None:
        """The client has read: send what waits, then go on."""
        if self._closing and self._waiting:
            self._writable = True
            self._send_waiting()
        else:
            super().resume_writing()

    # -- the work -----------------------------------------------------------------

    def work(self) -> None:
        """Send what waits; carry out requests until there is none, or the client doesn't read."""
        if self._waiting:
            self._send_waiting()
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
                self.end()
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
            self.end()

    def end(self) -> None:
        """Do nothing more; close when the client has its replies."""
        self._closing = True
        if not self._waiting:
            self._transport.close()

    def close(self) -> None:
        """Cut the client off."""
        self._waiting.clear()
        super().close()
