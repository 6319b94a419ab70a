"""What the meta commands do: mg, ms, md, ma and me.

Replies echo flags in the order in which the request gave them.  The rules that
keep a crowd from fetching the same thing anew at once:

- a client *wins* (W) when its ``mg`` created the item (N), found it close to
  its end (R), or is the first to find it stale (``md`` with I);
- from then on, others are told that somebody has won (Z), until the item is
  stored, or marked as stale again; a stale item says so (X) to all.

Source: memcached's doc/protocol.txt as of 1.6.18, "Meta Commands".
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from lj_services.memcached.items import BASE64_KEY, NEVER, STALE, WON, Item, cost
from lj_services.memcached.protocol import replies
from lj_services.memcached.protocol.commands import (
    MetaArithmetic,
    MetaDebug,
    MetaDelete,
    MetaFlags,
    MetaGet,
    MetaSet,
)

if TYPE_CHECKING:
    from lj_services.memcached.engine import Engine

_DECREMENT: Final = frozenset((b"D", b"d", b"-"))


def _echo(key: bytes, flags: MetaFlags) -> bytes:
    """Opaque and key, where they are asked for: what every reply can give."""
    words = b""
    for letter, argument in flags.items():
        if letter == b"O":
            words += b" O" + argument
        elif letter == b"k":
            words += _key_word(key, b"b" in flags)
    return words


def _key_word(key: bytes, in_base64: bool) -> bytes:
    return b" k%b b" % base64.b64encode(key) if in_base64 else b" k" + key


class MetaEngine:
    """Handlers of the meta commands, beside the engine's own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._items = engine.items
        self._counters = engine.counters

    def get(self, request: MetaGet, out: list[bytes]) -> None:
        """``mg``."""
        key, flags = request
        items = self._items
        counters = self._counters
        item = items.find(key)
        created = False
        if item is None and b"N" in flags:
            item = items.put(key, 0, b"", self._engine.moment(int(flags[b"N"])))
            item.state |= BASE64_KEY if b"b" in flags else 0
            created = True
        counters.cmd_get += 1
        if b"T" in flags:
            counters.cmd_touch += 1
        if item is None:
            if b"q" not in flags:
                out.append(b"EN%b\r\n" % _echo(key, flags))
            return
        counters.get_hits += not created
        if b"T" in flags:
            counters.touch_hits += 1
        words = self._describe(item, flags, won=created)
        if b"v" in flags:
            value = item.value
            out += (b"VA %d%b\r\n" % (len(value), words), value, b"\r\n")
        else:
            out.append(b"HD%b\r\n" % words)
        if b"u" not in flags:
            items.bump(item)

    def _describe(self, item: Item, flags: MetaFlags, won: bool) -> bytes:
        """The words of a hit; does what the flags T and R say on the way."""
        engine = self._engine
        words = b""
        for letter, argument in flags.items():
            match letter:
                case b"T":
                    self._items.expire_at(item, engine.moment(int(argument)))
                case b"R":
                    soon = engine.moment(int(argument))
                    if not won and not item.state & WON and item.expires_at < soon:
                        won = item.expires_at != NEVER
                case b"s":
                    words += b" s%d" % len(item.value)
                case b"t":
                    words += b" t%d" % engine.ttl(item)
                case b"c":
                    words += b" c%d" % item.cas
                case b"f":
                    words += b" f%d" % item.flags
                case b"l":
                    words += b" l%d" % (self._items.now - (item.used or item.stored))
                case b"h":
                    words += b" h1" if item.used else b" h0"
                case b"O":
                    words += b" O" + argument
                case b"k":
                    words += _key_word(item.key, bool(item.state & BASE64_KEY))
        if item.state & WON:
            words += b" Z"
        if item.state & STALE:
            words += b" X"
            won = won or not item.state & WON
        if won:
            words += b" W"
            item.state |= WON
        return words

    def set(self, request: MetaSet, out: list[bytes]) -> None:
        """``ms``."""
        key, flags, value = request
        self._counters.cmd_set += 1
        code, item = self._store(key, flags, value)
        if code == b"TOO LARGE":
            out.append(replies.TOO_LARGE)
            return
        if code == b"HD" and b"q" in flags:
            return
        words = b""
        for letter, argument in flags.items():
            if letter == b"O":
                words += b" O" + argument
            elif letter == b"k":
                words += _key_word(key, b"b" in flags)
            elif letter == b"c":
                words += b" c%d" % (item.cas if item is not None else 0)
        out.append(b"%b%b\r\n" % (code, words))

    def _store(self, key: bytes, flags: MetaFlags, value: bytes) -> tuple[bytes, Item | None]:
        """Store as the mode and the flags C and I say; the code to answer, and the new item."""
        items = self._items
        mode = flags.get(b"M", b"S").upper()
        old = items.find(key)
        unique = int(flags[b"C"]) if b"C" in flags else None
        stale_state = 0
        expires_at = self._engine.moment(int(flags.get(b"T", b"0")))
        if mode == b"E":
            if old is not None:
                items.bump(old)
                return b"NS", None
        elif mode in (b"A", b"P"):
            if old is None:
                return b"NS", None
            if unique is not None and old.cas != unique:
                return b"EX", None
            extended = self._engine.extend(old, value, before=mode == b"P")
            return (b"TOO LARGE", None) if extended is None else (b"HD", extended)
        elif unique is not None:
            if old is None:
                self._counters.cas_misses += 1
                return b"NF", None
            if old.cas != unique:
                if not (b"I" in flags and unique < old.cas):
                    self._counters.cas_badval += 1
                    return b"EX", None
                # The value is older than what is there, but better than none: it is
                # taken, still marked as stale, until the winner brings the new one.
                stale_state = STALE | (old.state & WON)
                expires_at = old.expires_at
            self._counters.cas_hits += 1
        elif mode == b"R" and old is None:
            return b"NS", None
        item = items.put(key, int(flags.get(b"F", b"0")), value, expires_at)
        item.state = stale_state | (BASE64_KEY if b"b" in flags else 0)
        return b"HD", item

    def delete(self, request: MetaDelete, out: list[bytes]) -> None:
        """``md``."""
        key, flags = request
        item = self._items.find(key)
        if item is None:
            self._counters.delete_misses += 1
            code = b"NF"
        elif b"C" in flags and item.cas != int(flags[b"C"]):
            self._counters.delete_misses += 1
            code = b"EX"
        else:
            if b"I" in flags:
                if b"T" in flags:
                    self._items.expire_at(item, self._engine.moment(int(flags[b"T"])))
                item.state = (item.state | STALE) & ~WON
                self._items.renew(item)
            else:
                self._counters.delete_hits += 1
                self._items.remove(item)
            if b"q" in flags:
                return
            code = b"HD"
        out.append(b"%b%b\r\n" % (code, _echo(key, flags)))

    def arithmetic(self, request: MetaArithmetic, out: list[bytes]) -> None:
        """``ma``."""
        key, flags = request
        items = self._items
        decrement = flags.get(b"M", b"I") in _DECREMENT
        item = items.find(key)
        if item is None and b"N" in flags:
            number = int(flags.get(b"J", b"0"))
            moment = self._engine.moment(int(flags[b"N"]))
            item = items.put(key, 0, b"%d" % number, moment)
        elif item is None:
            self._counters.count_arithmetic(decrement, hit=False)
            out.append(b"NF%b\r\n" % _echo(key, flags))
            return
        elif b"C" in flags and item.cas != int(flags[b"C"]):
            out.append(b"EX%b\r\n" % _echo(key, flags))
            return
        else:
            delta = int(flags.get(b"D", b"1"))
            counted = self._engine.count(item, delta, decrement=decrement)
            if counted is None:
                out.append(replies.NOT_A_NUMBER)
                return
            number = counted
            self._counters.count_arithmetic(decrement, hit=True)
        words = b""
        for letter, argument in flags.items():
            if letter == b"T":
                items.expire_at(item, self._engine.moment(int(argument)))
            elif letter == b"c":
                words += b" c%d" % item.cas
            elif letter == b"t":
                words += b" t%d" % self._engine.ttl(item)
            else:
                words += _echo(key, {letter: argument}) if letter == b"O" else b""
                words += _key_word(key, b"b" in flags) if letter == b"k" else b""
        if b"q" in flags:
            return
        if b"v" in flags:
            digits = b"%d" % number
            out.append(b"VA %d%b\r\n%b\r\n" % (len(digits), words, digits))
        else:
            out.append(b"HD%b\r\n" % words)

    def debug(self, request: MetaDebug, out: list[bytes]) -> None:
        """``me``: size is what the item costs, in bytes."""
        self._counters.cmd_meta += 1
        item = self._items.find(request.key)
        if item is None:
            out.append(b"EN\r\n")
            return
        in_base64 = item.state & BASE64_KEY
        name = base64.b64encode(item.key) if in_base64 else item.key
        out.append(
            b"ME %b exp=%d la=%d cas=%d fetch=%b cls=1 size=%d\r\n"
            % (
                name,
                self._engine.ttl(item),
                self._items.now - (item.used or item.stored),
                item.cas,
                b"yes" if item.used else b"no",
                cost(item),
            )
        )
