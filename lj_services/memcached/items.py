"""The items of the cache: a dictionary in order of use, with a limit in real bytes.

Theory of operation
===================

An item is kept in the form in which it is sent: its ``VALUE`` line, the value
and the line end as one bytes object (`Item.block`).  A get is then a lookup and
nothing else.  Flags and value are read back from the block by the few commands
that need them.

The dictionary is an `OrderedDict`, least recently used first: lookup, moving an
item to the end and taking the first one off are O(1).  An item that is stored
again keeps its place in memory: its fields are overwritten.

Time is what the owner says it is (`advance`), in seconds of a clock that never
goes back; the store reads no clock.  An item is dead from the moment its
`expires_at` has come: every lookup checks that.  Its memory comes back when it
is looked up, when the timing wheel passes it (expiry.py), or when its turn to
be evicted comes.

Memory: `used` is the sum of what the items truly cost: their own objects, the
dictionary (measured now and then, as it grows in leaps), and the bytes of values that are still
on their way in (`reserve`).  An operation that makes it grow past `limit` evicts
until it fits again, but at most twice what it added plus one item.  In the
normal course that is enough.  After the limit was lowered it spreads the work
over many operations, and `advance` does its share.

Clearing everything (`clear`) is O(1): the dictionary is put aside and a new one
begun.  Items put aside count in `used` until they are freed, step by step,
before anything is evicted.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from lj_services.memcached.expiry import Timer, TimingWheel

NEVER: Final = math.inf
"""`Item.expires_at` of an item that doesn't expire."""

STALE: Final = 1
"""`Item.state`: marked by ``md`` with the flag I, to be fetched anew by one client."""
WON: Final = 2
"""`Item.state`: a client was told to fetch it anew (W); the others are told so (Z)."""
BASE64_KEY: Final = 4
"""`Item.state`: stored under a key that travels as base64."""

WEIGH_EVERY: Final = 128
"""After so many stores of new keys the dictionary's own size is measured again."""

BITE: Final = 1 << 20
"""When the dictionary has grown: bytes to evict at once; the rest waits for the next operations."""

DENSE: Final = 216
"""What a dictionary takes for an item, at most, unless it has lost items since it grew."""

STEP: Final = 10_000
"""How many items `advance` looks at, at most: a few milliseconds."""


class Item(Timer):
    """One key and what is cached under it."""

    __slots__ = ("block", "cas", "key", "state", "stored", "used")

    def __init__(self, key: bytes, block: bytes, cas: int, now: float) -> None:
        self.key = key
        self.block = block
        self.cas = cas
        self.expires_at = NEVER
        self.before = None
        self.after = None
        self.stored = now
        self.used = 0.0  # 0: not fetched since it was stored
        self.state = 0

    @property
    def value(self) -> bytes:
        """What the client stored."""
        return self.block[self.block.index(b"\n") + 1 : -2]

    @property
    def flags(self) -> int:
        """The client's 32-bit flags."""
        return int(self.block[: self.block.index(b"\n")].split(b" ")[2])

    @property
    def block_with_cas(self) -> bytes:
        """The block as ``gets`` sends it."""
        line_end = self.block.index(b"\r\n")
        return b"%b %d%b" % (self.block[:line_end], self.cas, self.block[line_end:])


_MALLOC_ROUNDING: Final = 15
OVERHEAD: Final = (
    sys.getsizeof(Item(b"", b"", 0, 0.0))
    + 2 * (sys.getsizeof(b"") + _MALLOC_ROUNDING)  # key and block
    + sys.getsizeof(2**62)  # cas
)
"""What an item costs beyond the bytes of its key and its block, and its slot in the dictionary."""

EXPIRY_OVERHEAD: Final = sys.getsizeof(0.5)
"""What it costs in addition that an item expires."""


def cost(item: Item) -> int:
    """The memory that `item` takes, in bytes."""
    size = OVERHEAD + len(item.key) + len(item.block)
    return size if item.expires_at == NEVER else size + EXPIRY_OVERHEAD


class Items:
    """All items of one server."""

    def __init__(self, limit: int, now: float = 0.0) -> None:
        """
        Args:
            limit: bytes that the items may take.
            now: the owner's clock, in seconds.
        """
        self.limit = limit
        self.now = now
        self.used = 0
        self.reserved = 0
        self.last_cas = 0
        self.total_stored = 0
        self.evictions = 0
        self.evicted_unfetched = 0
        self.expired_unfetched = 0
        self.reclaimed = 0
        self.hits_expired = 0
        self._items: OrderedDict[bytes, Item] = OrderedDict()
        self._aside: list[OrderedDict[bytes, Item]] = []
        self._wheel: TimingWheel[Item] = TimingWheel(now)
        self._clear_at = NEVER
        self._tables = 0  # what the dictionaries themselves take, as of the last weighing

    def __len__(self) -> int:
        return len(self._items)

    # -- looking up ---------------------------------------------------------------

    def find(self, key: bytes) -> Item | None:
        """The live item under `key`; its turn to be evicted stays what it was."""
        item = self._items.get(key)
        if item is None or item.expires_at > self.now:
            return item
        self.hits_expired += 1
        self._expire(item)
        return None

    def bump(self, item: Item) -> None:
        """Note that `item` was fetched: it is now the last to be evicted."""
        item.used = self.now
        self._items.move_to_end(item.key)

    def collect(self, keys: Sequence[bytes], blocks: list[bytes]) -> int:
        """Fetch many: append the blocks of the live items under `keys` to `blocks`.

        Returns:
            How many there were; missing ones are left out.
        """
        now = self.now
        lookup = self._items.get
        move_to_end = self._items.move_to_end
        append = blocks.append
        found = 0
        for key in keys:
            item = lookup(key)
            if item is None:
                continue
            if item.expires_at > now:
                item.used = now
                move_to_end(key)
                append(item.block)
                found += 1
            else:
                self.hits_expired += 1
                self._expire(item)
        return found

    def oldest(self) -> Item | None:
        """The item that is the next to be evicted."""
        return next(iter(self._items.values()), None)

    # -- changing -----------------------------------------------------------------

    def put(self, key: bytes, flags: int, value: bytes, expires_at: float = NEVER) -> Item:
        """Store a value, whatever was there before."""
        block = b"VALUE %b %d %d\r\n%b\r\n" % (key, flags, len(value), value)
        return self.put_block(key, block, expires_at)

    def put_block(self, key: bytes, block: bytes, expires_at: float = NEVER) -> Item:
        """Store a value that is already in the form in which it is sent (`Item.block`)."""
        self.last_cas = cas = self.last_cas + 1
        self.total_stored += 1
        item = self._items.get(key)
        if item is None:
            item = self._items[key] = Item(key, block, cas, self.now)
            change = OVERHEAD + len(key) + len(block)
            if not cas % WEIGH_EVERY:
                self._weigh()
        else:
            change = len(block) - len(item.block)
            if item.expires_at != NEVER:
                change -= self._unschedule(item)
            item.block = block
            item.cas = cas
            item.stored = self.now
            item.used = 0.0
            item.state = 0
            self._items.move_to_end(key)
        if expires_at != NEVER:
            item.expires_at = expires_at
            self._wheel.add(item)
            change += EXPIRY_OVERHEAD
        self.used += change
        if self.used > self.limit:
            self._make_room(2 * change)
        return item

    def put_blocks(
        self, sets: Iterable[tuple[bytes, bytes, int]], moment: Callable[[int], float]
    ) -> None:
        """Store many values: `put_block`, written out for keys that are there already.

        Args:
            sets: key, block and exptime of each.
            moment: when what has an exptime expires.
        """
        lookup = self._items.get
        move_to_end = self._items.move_to_end
        now = self.now
        for key, block, exptime in sets:
            item = lookup(key)
            if item is None or exptime or item.expires_at != NEVER:
                self.put_block(key, block, moment(exptime) if exptime else NEVER)
                continue
            self.last_cas = item.cas = self.last_cas + 1
            self.total_stored += 1
            change = len(block) - len(item.block)
            item.block = block
            item.stored = now
            item.used = 0.0
            item.state = 0
            move_to_end(key)
            if change:
                self._grow(change)

    def rewrite(self, item: Item, value: bytes) -> None:
        """Change the value of `item` and nothing else but its cas unique."""
        before = len(item.block)
        item.block = b"VALUE %b %d %d\r\n%b\r\n" % (item.key, item.flags, len(value), value)
        self.renew(item)
        self._items.move_to_end(item.key)
        self._grow(len(item.block) - before)

    def renew(self, item: Item) -> None:
        """Give `item` a new cas unique, as if it had been stored."""
        self.last_cas += 1
        item.cas = self.last_cas

    def expire_at(self, item: Item, expires_at: float) -> None:
        """Let `item` live until `expires_at`."""
        if item.expires_at != NEVER:
            self.used -= self._unschedule(item)
        if expires_at != NEVER:
            item.expires_at = expires_at
            self._wheel.add(item)
            self._grow(EXPIRY_OVERHEAD)

    def remove(self, item: Item) -> None:
        """Forget a live item."""
        del self._items[item.key]
        self._free(item)

    def clear(self) -> None:
        """Forget all items, and a moment that was set for that."""
        self._clear_at = NEVER
        if self._items:
            self._aside.append(self._items)
            self._items = OrderedDict()

    def clear_at(self, moment: float) -> None:
        """Forget, when `moment` has come, all items that are there then."""
        self._clear_at = moment

    # -- time and memory ----------------------------------------------------------

    def advance(self, now: float) -> bool:
        """Let time pass: do what is due, and a bounded piece of the work that waits.

        Args:
            now: the owner's clock, in seconds.

        Returns:
            Whether work is left, so that the owner should call again soon.
        """
        self.now = now
        if now >= self._clear_at:
            self.clear()
        due, more = self._wheel.advance(now, STEP)
        for item in due:
            if self._items.get(item.key) is item:
                self._expire(item)
        self._shrink(STEP)
        self._weigh()
        if (
            self._slack() > max(self._tables // 2, BITE)
            or 0 < self.used - self.limit <= self._slack()
        ):
            # A dictionary that has lost most of its items keeps its size: make a smaller one.
            self._items = OrderedDict(self._items)
        self._weigh()
        return more or bool(self._aside) or self.used > self.limit

    def reserve(self, change: int) -> None:
        """Count values that are still on their way in (bytes more, or less if negative)."""
        self.reserved += change
        self._grow(change)

    def _grow(self, change: int) -> None:
        self.used += change
        if self.used > self.limit:
            self._make_room(2 * change)

    def _weigh(self) -> None:
        """Count what the dictionaries themselves take: index tables and the list of use."""
        tables = sys.getsizeof(self._items) + sum(map(sys.getsizeof, self._aside))
        change = tables - self._tables
        self._tables = tables
        self.used += change
        if self.used > self.limit:
            self._make_room(min(2 * change, BITE))

    def _make_room(self, enough: int) -> None:
        """Evict until the rest is within the limit, or `enough` bytes are freed."""
        goal = max(self.limit, self.used - enough)
        while self.used > goal and self._free_one():
            pass

    def _shrink(self, most: int) -> None:
        """Free what was put aside, and evict what is over the limit, `most` items at most."""
        for _ in range(most):
            if not self._aside and self.used - self._slack() <= self.limit:
                return
            if not self._free_one():
                return

    def _slack(self) -> int:
        """What the dictionaries take that smaller ones, made anew, would not."""
        return max(0, self._tables - DENSE * len(self._items))

    def _free_one(self) -> bool:
        """Free one item, if there is one: put aside, else least recently used."""
        if self._aside:
            _, item = self._aside[-1].popitem(last=False)
            if not self._aside[-1]:
                self._aside.pop()
        elif self._items:
            _, item = self._items.popitem(last=False)
            if item.expires_at <= self.now:
                self.reclaimed += 1
            else:
                self.evictions += 1
                if not item.used:
                    self.evicted_unfetched += 1
        else:
            return False
        self._free(item)
        return True

    def _expire(self, item: Item) -> None:
        self.reclaimed += 1
        if not item.used:
            self.expired_unfetched += 1
        self.remove(item)

    def _free(self, item: Item) -> None:
        self.used -= cost(item)
        if item.expires_at != NEVER:
            self._unschedule(item)

    def _unschedule(self, item: Item) -> int:
        """Let `item` live for ever; gives the bytes that its expiry took."""
        self._wheel.discard(item)
        item.expires_at = NEVER
        return EXPIRY_OVERHEAD
