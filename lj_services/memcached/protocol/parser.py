"""Reads requests out of a stream of bytes that may be cut anywhere.

Theory of operation
===================

The owner feeds what arrived (`RequestParser.feed`) and takes requests out
(`next_request`) until there is none: h11's manner.  He may stop taking at any
time (his client doesn't read its replies) and go on later.

There are two homes for bytes.  `_buffer` is immutable and is parsed in place,
from `_pos` on; a read that holds whole requests, which is the rule, is parsed
without copying anything but keys and values.  `_held` takes the unfinished rest
of a read.  It only becomes the buffer again when what it waits for is there: so
many bytes (`_need`, when a command line has announced a value) or a line end.
So a client that sends byte by byte costs time in proportion to its bytes, and
what is held is at most one line (`_line_limit`) or one line and one value.

Plain sets, as clients that fill a cache send them by the hundred, are read on a way of
their own (plain_sets.py) and given out together.  It stops where anything is
unusual, and what `next_request` then makes of that place it would have made anyway.

A request line is parsed again when its value has arrived.  That way the only
state of the parser, between two calls, is where it stands in the stream.

A value that is over the limit is refused when its line is seen, and then passed
over as it arrives (`_skip`): it is never in memory.  A line that is over the
limit, or the magic byte of the binary protocol, leaves no way to tell where the
next request starts: the refusal says `close` and nothing is parsed after it.

Whatever arrives: the parser never raises.

The error texts are those of memcached 1.6.18, which clients know.
"""

from __future__ import annotations

from typing import Final, get_args

from lj_services.memcached.protocol import replies
from lj_services.memcached.protocol.commands import (
    MAX_KEY,
    UINT32_MAX,
    Get,
    MetaSet,
    Refused,
    Request,
    Sets,
    Store,
    StoreMode,
)
from lj_services.memcached.protocol.lines import BAD_LINE, ERROR, LINE_READERS, refuse
from lj_services.memcached.protocol.meta import read_key_and_flags
from lj_services.memcached.protocol.numbers import signed, unsigned
from lj_services.memcached.protocol.plain_sets import read_plain_sets

MAX_LINE: Final = 2048
"""Longest command line without keys to get, in bytes (as memcached has it)."""

MAX_GET_LINE: Final = 1 << 18
"""Longest line of get, gets, gat and gats, in bytes: a thousand of the longest keys."""

BINARY_MAGIC: Final = 0x80
"""First byte of every request of the binary protocol; no text begins with it."""

BINARY_HEADER: Final = 24
"""Length of such a request's header, in bytes."""

_MOST_BYTES: Final = 2**31 - 3  # memcached reads the size of a value as a C int
_BAD_CHUNK: Final = Refused(replies.BAD_CHUNK)
_LINE_TOO_LONG: Final = Refused(replies.client_error("line too long"), close=True)
_STORE_MODES: Final[dict[bytes, StoreMode]] = {mode.encode(): mode for mode in get_args(StoreMode)}


class RequestParser:
    """The requests of one connection."""

    def __init__(self, max_item: int) -> None:
        """
        Args:
            max_item: key and value together are at most this long, in bytes; longer
                ones are refused.
        """
        self.max_item = max_item
        self.idle = True
        """Whether the stream stands between two requests, and all that was fed is used up."""
        self._buffer = b""
        self._pos = 0
        self._held = bytearray()
        self._need = 0
        self._line_limit = MAX_LINE
        self._skip = 0
        self._closed = False

    @property
    def held(self) -> int:
        """Bytes of unfinished requests in memory."""
        return len(self._held)

    def feed(self, data: bytes) -> None:
        """Take what arrived; `next_request` then gives what is complete."""
        if self.idle:
            self.idle = False
            self._buffer = data
            self._pos = 0
            return
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            data = data[passed:]
        if self._held or self._pos < len(self._buffer):
            data = self._join(data)
        self._buffer = b"" if self._closed else data
        self._pos = 0

    def lone_get(self, data: bytes) -> list[bytes] | None:
        """The keys, if `data` is one plain get and nothing else; then it need not be fed.

        That is what most reads are in most caches, and what their speed hangs on.
        None says nothing: feed `data` and look.
        """
        if (
            self.idle
            and len(data) <= MAX_KEY
            and data[:4] == b"get "
            and data.find(b"\r\n") == len(data) - 2
            and b"\n" not in data[4:-2]
        ):
            keys = data[4:-2].split(b" ")
            return None if b"" in keys else keys
        return None

    def next_request(self) -> Request | Sets | Refused | None:
        """The next request, or None until more is fed; plain sets in a row come as one."""
        request: Request | Refused | None
        buffer = self._buffer
        start = self._pos
        if self.idle:
            return None
        if buffer.startswith(b"set ", start):
            sets, self._pos = read_plain_sets(buffer, start, self.max_item)
            if sets:
                if self._pos == len(buffer):
                    self._rest()
                return Sets(sets)
        end = buffer.find(b"\n", start)
        if end < 0:
            return self._unfinished_line(start)
        line = buffer[start : end - 1 if buffer[end - 1] == 13 and end > start else end]
        words = line.split(b" ")
        if b"" in words:  # more than one space between words, or an empty line
            words = [word for word in words if word]
            if not words:
                self._pos = end + 1
                return ERROR
        verb = words[0]
        if verb == b"get" and len(words) > 1 and len(line) <= MAX_KEY:  # then so is every key
            # The other request that nearly all are.
            self._pos = end + 1
            del words[0]
            return Get(words)
        if buffer[start] == BINARY_MAGIC:
            return self._binary(start)
        if len(line) > MAX_LINE and len(line) > _longest(line):
            return self._lose_track(_LINE_TOO_LONG)
        if verb in _STORE_MODES:
            request = self._store(words, end + 1)
        elif verb in LINE_READERS:
            self._pos = end + 1
            return LINE_READERS[verb](words)
        elif verb == b"ms":
            request = self._meta_set(words, end + 1)
        else:
            self._pos = end + 1
            return self._unknown(words)
        if request is None:
            self._need -= start
            self._hold(start)
        return request

    def give_up_held(self) -> Refused:
        """Let go of the unfinished request, for want of memory; gives what to answer.

        The rest of a value is passed over when it comes.  After an unfinished
        line the stream can't be followed.
        """
        missing = self._need - len(self._held)
        self._held = bytearray()
        self._need = 0
        if missing <= 0:
            return self._lose_track(Refused(replies.OUT_OF_MEMORY, close=True))
        self._skip = missing
        return Refused(replies.OUT_OF_MEMORY)

    # -- lines that announce a value: None while the value is on its way ----------

    def _store(self, words: list[bytes], after: int) -> Store | Refused | None:
        """A line of set and its kin, which ends at `after`."""
        self._pos = after
        mode = _STORE_MODES[words[0]]
        plain = 6 if mode == "cas" else 5
        if not plain <= len(words) <= plain + 1:
            return ERROR
        key = words[1]
        noreply = len(words) > plain and words[plain] == b"noreply"
        flags = unsigned(words[2], UINT32_MAX)
        exptime = signed(words[3])
        size = unsigned(words[4], _MOST_BYTES)
        cas = unsigned(words[5]) if mode == "cas" else 0
        if flags is None or exptime is None or size is None or cas is None or len(key) > MAX_KEY:
            return refuse(BAD_LINE, noreply)
        if len(key) + size > self.max_item:
            self._pass_over(after, size)
            # A value that was to be replaced must not stay as if nothing happened.
            forget = key if mode == "set" else None
            return refuse(Refused(replies.TOO_LARGE, forget=forget), noreply)
        value = self._value(after, size)
        if value is None:
            return None
        if isinstance(value, Refused):
            return refuse(value, noreply)
        return Store(mode, key, flags, exptime, value, cas, noreply)

    def _meta_set(self, words: list[bytes], after: int) -> MetaSet | Refused | None:
        """A line of ms, which ends at `after`."""
        self._pos = after
        if len(words) < 2:
            return ERROR
        size = unsigned(words[2], _MOST_BYTES) if len(words) > 2 else None
        if size is None:
            return BAD_LINE
        meta = read_key_and_flags(words, 3)
        if isinstance(meta, Refused):
            self._pass_over(after, size)
            return meta
        if len(meta.key) + size > self.max_item:
            self._pass_over(after, size)
            return Refused(replies.TOO_LARGE, forget=meta.key)
        value = self._value(after, size)
        if value is None or isinstance(value, Refused):
            return value
        return MetaSet(meta.key, meta.flags, value)

    def _value(self, after: int, size: int) -> bytes | Refused | None:
        """The value of `size` bytes that begins at `after`."""
        end = after + size
        if len(self._buffer) < end + 2:
            self._need = end + 2
            return None
        self._pos = end + 2
        if self._buffer[end : end + 2] != b"\r\n":
            return _BAD_CHUNK
        return self._buffer[after:end]

    def _pass_over(self, after: int, size: int) -> None:
        """Drop the value that begins at `after`, also what of it is still to come."""
        self._pos = min(after + size + 2, len(self._buffer))
        self._skip = after + size + 2 - self._pos

    # -- where the stream stands --------------------------------------------------

    def _rest(self) -> None:
        """All that was fed is used up: a client that rests costs no memory."""
        self.idle = True
        self._buffer = b""
        self._pos = 0

    def _hold(self, start: int) -> None:
        """Keep everything from `start` on until there is more."""
        self._held += memoryview(self._buffer)[start:]
        self._buffer = b""
        self._pos = 0

    def _join(self, data: bytes) -> bytes:
        """Put `data` after what is held; give all of it if it can be parsed now, else nothing."""
        self._hold(self._pos)
        held = self._held
        held += data
        if len(held) < self._need:
            return b""
        if not self._need and len(held) <= self._line_limit and b"\n" not in data:
            return b""
        self._held = bytearray()
        self._need = 0
        return bytes(held)

    def _unfinished_line(self, start: int) -> Refused | None:
        if start == len(self._buffer):
            if not (self._held or self._skip or self._closed):
                self._rest()
            return None
        rest = self._buffer[start:]
        if rest[0] == BINARY_MAGIC:
            return self._binary(start)
        self._line_limit = _longest(rest)
        if len(rest) > self._line_limit:
            return self._lose_track(_LINE_TOO_LONG)
        self._hold(start)
        return None

    def _binary(self, start: int) -> Refused | None:
        """A request of the binary protocol begins at `start`."""
        header = self._buffer[start : start + BINARY_HEADER]
        if len(header) == BINARY_HEADER:
            return self._lose_track(_refuse_binary(header))
        self._need = BINARY_HEADER
        self._hold(start)
        return None

    def _unknown(self, words: list[bytes]) -> Refused:
        if words[-1].startswith(b"HTTP/"):
            # A browser that was tricked into talking to a cache gets no second line.
            return self._lose_track(Refused(b"", close=True))
        return ERROR

    def _lose_track(self, refusal: Refused) -> Refused:
        """Nothing that comes after this can be told apart."""
        self._closed = True
        self._buffer = b""
        self._pos = 0
        return refusal


def _longest(line: bytes) -> int:
    """How long a line that begins like `line` may be."""
    return MAX_GET_LINE if line.startswith((b"get", b"gat")) else MAX_LINE


def _refuse_binary(header: bytes) -> Refused:
    """An error that a client of the binary protocol can read, and a person in a trace too.

    It echoes the request's opcode and opaque; the status 0x0081 is "unknown command".
    Source: memcached's doc/protocol-binary.txt, "Packet Structure".
    """
    text = b"the binary protocol is not spoken here; use the text protocol"
    length = len(text).to_bytes(4, "big")
    reply = b"\x81%b\0\0\0\0\0\x81%b%b%b" % (header[1:2], length, header[12:16], bytes(8))
    return Refused(reply + text, close=True)
