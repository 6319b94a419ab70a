"""What the server counts, and the tables that ``stats`` gives.

The names are memcached's, with its meanings, so that tools that read them work.
What has no counterpart here is left out: there are no slabs, threads or LRU
crawler.  Where a tool expects slab classes there is one, number 1, that stands
for the whole store; its chunk size is the mean cost of an item.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

from lj_services.memcached.config import ServerSettings
from lj_services.memcached.items import Items
from lj_services.memcached.protocol import replies

Table: TypeAlias = Iterable[tuple[str, object]]

PAGE = 1 << 20
"""What ``stats slabs`` calls a page, in bytes."""


class Counters:
    """What happened since the start, or since ``stats reset``."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin to count anew."""
        self.total_connections = 0
        self.rejected_connections = 0
        self.bytes_read = 0
        self.bytes_written = 0
        self.cmd_get = 0
        self.cmd_set = 0
        self.cmd_flush = 0
        self.cmd_touch = 0
        self.cmd_meta = 0
        self.get_hits = 0
        self.delete_hits = 0
        self.delete_misses = 0
        self.incr_hits = 0
        self.incr_misses = 0
        self.decr_hits = 0
        self.decr_misses = 0
        self.cas_hits = 0
        self.cas_misses = 0
        self.cas_badval = 0
        self.touch_hits = 0
        self.store_too_large = 0
        self.store_no_memory = 0

    def count_arithmetic(self, decrement: bool, *, hit: bool) -> None:
        """Count one incr or decr."""
        if decrement:
            self.decr_hits += hit
            self.decr_misses += not hit
        else:
            self.incr_hits += hit
            self.incr_misses += not hit


class Statistics:
    """Answers ``stats``."""

    def __init__(
        self,
        items: Items,
        counters: Counters,
        settings: Callable[[], ServerSettings],
        connections: Callable[[], list[tuple[int, str, float]]],
        version: str,
    ) -> None:
        """
        Args:
            items: the store.
            counters: what the engine and the connections count.
            settings: gives the settings in force.
            connections: gives number, address and seconds of silence of each client.
            version: what ``version`` answers.
        """
        self._items = items
        self._counters = counters
        self._settings = settings
        self._connections = connections
        self._version = version
        self._started = time.monotonic()

    def reply(self, words: list[bytes]) -> bytes:
        """The whole reply to ``stats`` with these words."""
        match words:
            case []:
                return _lines(self.general())
            case [b"reset"]:
                self._counters.reset()
                return replies.RESET
            case [b"settings"]:
                return _lines(self.settings())
            case [b"items"]:
                return _lines(self.items())
            case [b"slabs"]:
                return _lines(self.slabs())
            case [b"sizes"]:
                return _lines([("sizes_status", "disabled")])
            case [b"conns"]:
                return _lines(self.connections())
            case [b"detail", *_]:
                return replies.client_error("stats detail is not kept here")
            case _:
                return replies.ERROR

    def general(self) -> Table:
        """``stats``."""
        items = self._items
        counters = self._counters
        settings = self._settings()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        yield "pid", os.getpid()
        yield "uptime", int(time.monotonic() - self._started)
        yield "time", int(time.time())
        yield "version", self._version
        yield "pointer_size", 64
        yield "rusage_user", f"{usage.ru_utime:.6f}"
        yield "rusage_system", f"{usage.ru_stime:.6f}"
        yield "max_connections", settings.max_connections
        yield "curr_connections", len(self._connections())
        yield from vars(counters).items()
        yield "get_misses", counters.cmd_get - counters.get_hits
        yield "get_expired", items.hits_expired
        yield "touch_misses", counters.cmd_touch - counters.touch_hits
        yield "limit_maxbytes", items.limit
        yield "accepting_conns", 1
        yield "threads", 1
        yield "bytes", items.used
        yield "bytes_arriving", items.reserved
        yield "curr_items", len(items)
        yield "total_items", items.total_stored
        yield "evictions", items.evictions
        yield "evicted_unfetched", items.evicted_unfetched
        yield "expired_unfetched", items.expired_unfetched
        yield "reclaimed", items.reclaimed

    def settings(self) -> Table:
        """``stats settings``."""
        settings = self._settings()
        yield "maxbytes", self._items.limit
        yield "maxconns", settings.max_connections
        yield "tcpport", settings.listen.port
        yield "udpport", 0
        yield "inter", settings.listen.host
        yield "evictions", "on"
        yield "cas_enabled", "yes"
        yield "flush_enabled", "yes"
        yield "shutdown_command", "yes" if settings.shutdown_command else "no"
        yield "item_size_max", settings.max_item_size
        yield "idle_timeout", f"{settings.idle_timeout_s:g}"
        yield "num_threads", 1
        yield "binding_protocol", "ascii"

    def items(self) -> Table:
        """``stats items``."""
        items = self._items
        oldest = items.oldest()
        if oldest is None:
            return
        yield "items:1:number", len(items)
        yield "items:1:age", int(items.now - (oldest.used or oldest.stored))
        yield "items:1:mem_requested", items.used
        yield "items:1:evicted", items.evictions
        yield "items:1:evicted_unfetched", items.evicted_unfetched
        yield "items:1:expired_unfetched", items.expired_unfetched
        yield "items:1:reclaimed", items.reclaimed
        yield "items:1:outofmemory", self._counters.store_no_memory

    def slabs(self) -> Table:
        """``stats slabs``."""
        items = self._items
        counters = self._counters
        number = len(items)
        if number:
            chunk = -(-items.used // number)
            yield "1:chunk_size", chunk
            yield "1:chunks_per_page", max(1, PAGE // chunk)
            yield "1:total_pages", -(-items.used // PAGE)
            yield "1:total_chunks", number
            yield "1:used_chunks", number
            yield "1:free_chunks", 0
            yield "1:free_chunks_end", 0
            yield "1:mem_requested", items.used
            yield "1:get_hits", counters.get_hits
            yield "1:cmd_set", counters.cmd_set
            yield "1:delete_hits", counters.delete_hits
            yield "1:incr_hits", counters.incr_hits
            yield "1:decr_hits", counters.decr_hits
            yield "1:cas_hits", counters.cas_hits
            yield "1:cas_badval", counters.cas_badval
            yield "1:touch_hits", counters.touch_hits
        yield "active_slabs", 1 if number else 0
        yield "total_malloced", items.used

    def connections(self) -> Table:
        """``stats conns``."""
        for number, address, silence_s in self._connections():
            yield f"{number}:addr", address
            yield f"{number}:secs_since_last_cmd", int(silence_s)


def _lines(table: Table) -> bytes:
    return b"".join(f"STAT {name} {value}\r\n".encode() for name, value in table) + replies.END
