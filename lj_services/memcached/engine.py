"""What each request does: requests in, bytes of replies out, no sockets.

`Engine.execute` looks the request's type up and calls its handler, which
changes the items and appends what to send to a list.  Appending, rather than
returning a joined reply, means that a large value is copied once, by whoever
joins the list, and that a pipeline of requests becomes a single write.

A handler returns True when the connection is to be closed after its reply.
Meta commands live in meta_engine.py, the tables of ``stats`` in statistics.py.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from lj_services.memcached.items import NEVER, Item, Items
from lj_services.memcached.meta_engine import MetaEngine
from lj_services.memcached.protocol import replies
from lj_services.memcached.protocol.commands import (
    UINT64_MAX,
    Arithmetic,
    CacheMemlimit,
    Delete,
    FlushAll,
    Get,
    GetAndTouch,
    MetaArithmetic,
    MetaDebug,
    MetaDelete,
    MetaGet,
    MetaNoop,
    MetaSet,
    Quit,
    Refused,
    Request,
    Sets,
    Shutdown,
    Stats,
    Store,
    Touch,
    Verbosity,
    Version,
)
from lj_services.memcached.protocol.numbers import unsigned
from lj_services.memcached.statistics import Counters

LONGEST_RELATIVE: Final = 60 * 60 * 24 * 30
"""An exptime above this many seconds is Unix time."""

log = logging.getLogger("lj_services.memcached")
_VERBOSITY: Final = (logging.WARNING, logging.INFO, logging.DEBUG)

Replies: TypeAlias = list[bytes]


class Engine:
    """One cache, as the protocol sees it."""

    def __init__(
        self,
        items: Items,
        counters: Counters,
        *,
        max_item: int,
        version: str,
        stats: Callable[[list[bytes]], bytes],
        shutdown: Callable[[], None] | None = None,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            items: the store; the owner lets its time pass.
            counters: what is counted for ``stats``.
            max_item: key and value together are at most this long, in bytes.
            version: answer of ``version``.
            stats: words of a ``stats`` command -> its whole reply.
            shutdown: what ends the server; None refuses the command ``shutdown``.
            unix_time: the wall clock, for expiry times that are given as Unix time.
        """
        self.items = items
        self.counters = counters
        self.max_item = max_item
        self._version = b"VERSION %b\r\n" % version.encode()
        self._stats = stats
        self._shutdown = shutdown
        self._unix_time = unix_time
        meta = MetaEngine(self)
        self.handlers: dict[type[Any], Callable[[Any, Replies], bool | None]] = {
            Get: self._get,
            Store: self._store,
            Sets: self._sets,
            GetAndTouch: self._get_and_touch,
            Delete: self._delete,
            Arithmetic: self._arithmetic,
            Touch: self._touch,
            FlushAll: self._flush_all,
            Stats: lambda request, out: out.append(self._stats(request.words)),
            Verbosity: self._verbosity,
            CacheMemlimit: self._cache_memlimit,
            Version: lambda _request, out: out.append(self._version),
            Quit: lambda _request, _out: True,
            Shutdown: self._shut_down,
            Refused: self._refused,
            MetaNoop: lambda _request, out: out.append(replies.META_NOOP),
            MetaGet: meta.get,
            MetaSet: meta.set,
            MetaDelete: meta.delete,
            MetaArithmetic: meta.arithmetic,
            MetaDebug: meta.debug,
        }

    def execute(self, request: Request | Sets | Refused, out: Replies) -> bool | None:
        """Do what `request` asks and append the reply to `out`.

        Returns:
            True when the connection must be closed after the reply.
        """
        return self.handlers[type(request)](request, out)

    # -- shared with the meta commands --------------------------------------------

    def moment(self, exptime: int) -> float:
        """When an item with this exptime expires, on the clock of the items."""
        if exptime == 0:
            return NEVER
        now = self.items.now
        if exptime < 0:
            return now
        if exptime <= LONGEST_RELATIVE:
            return now + exptime
        return now + max(0.0, exptime - self._unix_time())

    def ttl(self, item: Item) -> int:
        """Seconds that `item` has to live; -1: for ever."""
        if item.expires_at == NEVER:
            return -1
        # Rounded first: a sum of fractions of seconds can be a hair over what was asked for.
        return math.ceil(round(item.expires_at - self.items.now, 3))

    def extend(self, old: Item, value: bytes, *, before: bool) -> Item | None:
        """Put `value` before or after that of `old`; None if that makes it too large."""
        if len(old.key) + len(old.value) + len(value) > self.max_item:
            self.counters.store_too_large += 1
            return None
        joined = value + old.value if before else old.value + value
        return self.items.put(old.key, old.flags, joined, old.expires_at)

    def count(self, item: Item, delta: int, *, decrement: bool) -> int | None:
        """Add to the number in `item`, or subtract; None if there is no number.

        A sum wraps at 2**64, a difference stops at 0.  A number that got shorter
        is filled up with spaces, as memcached does, so that its length stays; for
        the same reason what follows a space is no part of the number.
        """
        words = item.value.split(None, 1)
        number = unsigned(words[0]) if words else None
        if number is None:
            return None
        number = max(0, number - delta) if decrement else (number + delta) & UINT64_MAX
        digits = b"%d" % number
        length = len(item.value)
        if len(digits) <= length:
            self.items.rewrite(item, digits.ljust(length))
        else:
            self.items.put(item.key, item.flags, digits, item.expires_at)
        return number

    # -- handlers -----------------------------------------------------------------

    def get(self, keys: list[bytes], out: Replies) -> None:
        """Do a plain get; the server calls it directly for the requests that are nothing else."""
        counters = self.counters
        counters.cmd_get += len(keys)
        counters.get_hits += self.items.collect(keys, out)
        out.append(replies.END)

    def _get(self, request: Get, out: Replies) -> None:
        keys, with_cas = request
        if not with_cas:
            self.get(keys, out)
            return
        self.counters.cmd_get += len(keys)
        self.counters.get_hits += self._collect_with_cas(keys, out)
        out.append(replies.END)

    def _collect_with_cas(self, keys: list[bytes], out: Replies) -> int:
        before = len(out)
        for key in keys:
            if (item := self.items.find(key)) is not None:
                self.items.bump(item)
                out.append(item.block_with_cas)
        return len(out) - before

    def _get_and_touch(self, request: GetAndTouch, out: Replies) -> None:
        moment = self.moment(request.exptime)
        found = 0
        for key in request.keys:
            if (item := self.items.find(key)) is not None:
                self.items.bump(item)
                out.append(item.block_with_cas if request.with_cas else item.block)
                self.items.expire_at(item, moment)
                found += 1
        out.append(replies.END)
        self.counters.cmd_touch += len(request.keys)
        self.counters.touch_hits += found
        self.counters.cmd_get += len(request.keys)
        self.counters.get_hits += found

    def _store(self, request: Store, out: Replies) -> None:
        mode, key, flags, exptime, value, cas, noreply = request
        self.counters.cmd_set += 1
        if mode == "set":
            self.items.put(key, flags, value, self.moment(exptime) if exptime else NEVER)
            reply = replies.STORED
        else:
            reply = self._store_if(mode, key, flags, exptime, value, cas)
        if not noreply:
            out.append(reply)

    def _sets(self, request: Sets, out: Replies) -> None:
        self.items.put_blocks(request.sets, self.moment)
        self.counters.cmd_set += len(request.sets)
        out.append(replies.STORED * len(request.sets))

    def _store_if(
        self, mode: str, key: bytes, flags: int, exptime: int, value: bytes, cas: int
    ) -> bytes:
        """The kinds of store that depend on what is there."""
        old = self.items.find(key)
        if mode == "add":
            if old is not None:
                self.items.bump(old)
                return replies.NOT_STORED
        elif mode == "cas":
            if old is None:
                self.counters.cas_misses += 1
                return replies.NOT_FOUND
            if old.cas != cas:
                self.counters.cas_badval += 1
                return replies.EXISTS
            self.counters.cas_hits += 1
        elif old is None:
            return replies.NOT_STORED
        elif mode != "replace":
            extended = self.extend(old, value, before=mode == "prepend")
            return replies.TOO_LARGE if extended is None else replies.STORED
        self.items.put(key, flags, value, self.moment(exptime))
        return replies.STORED

    def _delete(self, request: Delete, out: Replies) -> None:
        item = self.items.find(request.key)
        if item is None:
            self.counters.delete_misses += 1
            reply = replies.NOT_FOUND
        else:
            self.counters.delete_hits += 1
            self.items.remove(item)
            reply = replies.DELETED
        if not request.noreply:
            out.append(reply)

    def _arithmetic(self, request: Arithmetic, out: Replies) -> None:
        key, delta, decrement, noreply = request
        item = self.items.find(key)
        if item is None:
            self.counters.count_arithmetic(decrement, hit=False)
            reply = replies.NOT_FOUND
        elif (number := self.count(item, delta, decrement=decrement)) is None:
            reply = replies.NOT_A_NUMBER
        else:
            self.counters.count_arithmetic(decrement, hit=True)
            reply = b"%d\r\n" % number
        if not noreply:
            out.append(reply)

    def _touch(self, request: Touch, out: Replies) -> None:
        self.counters.cmd_touch += 1
        item = self.items.find(request.key)
        if item is not None:
            self.counters.touch_hits += 1
            self.items.bump(item)
            self.items.expire_at(item, self.moment(request.exptime))
        if not request.noreply:
            out.append(replies.NOT_FOUND if item is None else replies.TOUCHED)

    def _flush_all(self, request: FlushAll, out: Replies) -> None:
        self.counters.cmd_flush += 1
        if request.delay:
            self.items.clear_at(self.moment(request.delay))
        else:
            self.items.clear()
        if not request.noreply:
            out.append(replies.OK)

    def _verbosity(self, request: Verbosity, out: Replies) -> None:
        log.setLevel(_VERBOSITY[min(request.level, len(_VERBOSITY) - 1)])
        if not request.noreply:
            out.append(replies.OK)

    def _cache_memlimit(self, request: CacheMemlimit, out: Replies) -> None:
        least = max(8, -(-4 * self.max_item >> 20))
        if request.megabytes < least:
            reply = b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than %dm\r\n" % least
        elif request.megabytes > 1_000_000_000:
            reply = b"MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n"
        else:
            self.items.limit = request.megabytes << 20
            log.info("memory limit changed", extra={"megabytes": request.megabytes})
            reply = replies.OK
        if not request.noreply:
            out.append(reply)

    def _shut_down(self, request: Shutdown, out: Replies) -> bool:
        if self._shutdown is None:
            out.append(b"ERROR: shutdown not enabled\r\n")
            return False
        if request.mode not in (b"", b"graceful"):
            out.append(replies.client_error("invalid shutdown mode"))
            return False
        log.info("shut down by a client")
        self._shutdown()
        return True

    def _refused(self, request: Refused, out: Replies) -> bool:
        reply, close, forget = request
        if reply == replies.TOO_LARGE:
            self.counters.store_too_large += 1
        if forget is not None and (item := self.items.find(forget)) is not None:
            self.items.remove(item)
        if reply:
            out.append(reply)
        return close
