"""Reads replies out of a stream of bytes that may be cut anywhere.

Theory of operation
===================

memcached answers a connection's commands in order.  The answer to one command is
any number of *items* (`Value` for get, `Stat` for stats) and then exactly one
*closing* reply: END, STORED, a number, an error, a meta code ...  So whoever sent
n commands knows that he has all answers when n closing replies have come.
`ReplyParser.closed` counts them; nothing else is needed to keep requests and
replies together, and a stream with more than that is out of step.

Bytes are fed (`feed`) and whole replies gather in `replies`.  A reply that is not
complete stays behind: the parser knows how long the buffer must at least be
before another look is worth it (`_need`: the end of an announced value), and
until then only collects pieces, so that a large value costs time in proportion
to its size however finely it is cut.  What is held is at most one line
(`MAX_LINE`) or one line and one value (`max_value`).

Anything that is no reply raises `BadReply`, at once and again on every further
call: after that no byte of the stream can be trusted.

Source: memcached's doc/protocol.txt as of 1.6.18.
"""

from __future__ import annotations

import enum
from typing import Final, Literal, NamedTuple, TypeAlias

MAX_LINE: Final = 8192
"""Longest reply line that is read, in bytes without its end."""

MAX_VALUE: Final = 1 << 30
"""Longest value that is read unless told otherwise: memcached's own upper bound, in bytes."""


class BadReply(Exception):
    """The stream holds something that is no reply; the message quotes it."""


class Status(enum.Enum):
    """Closing replies that are one word."""

    STORED = b"STORED"
    NOT_STORED = b"NOT_STORED"
    EXISTS = b"EXISTS"
    NOT_FOUND = b"NOT_FOUND"
    DELETED = b"DELETED"
    TOUCHED = b"TOUCHED"
    OK = b"OK"
    END = b"END"
    RESET = b"RESET"


class Value(NamedTuple):
    """An item of get, gets, gat and gats; `cas` is None where it was not asked for."""

    key: bytes
    flags: int
    data: bytes
    cas: int | None


class Stat(NamedTuple):
    """An item of stats."""

    name: bytes
    value: bytes


class Number(NamedTuple):
    """The closing reply of incr and decr: the new value, 0..2**64-1."""

    value: int


class Version(NamedTuple):
    """The closing reply of version."""

    text: bytes


class Failure(NamedTuple):
    """A closing reply that reports an error."""

    kind: Literal["ERROR", "CLIENT_ERROR", "SERVER_ERROR"]
    text: bytes


class Meta(NamedTuple):
    """The closing reply of a meta command.

    `code` is one of HD, VA, EN, MN, NS, EX, NF, ME; `words` are the returned flags,
    for ME the key and its attributes; `data` is the value of a VA.
    """

    code: bytes
    words: tuple[bytes, ...]
    data: bytes | None


Reply: TypeAlias = Status | Value | Stat | Number | Version | Failure | Meta

_STATUS: Final = {status.value: status for status in Status}
_META: Final = frozenset((b"HD", b"EN", b"MN", b"NS", b"EX", b"NF", b"ME"))


class ReplyParser:
    """The replies of one connection."""

    __slots__ = (
        "_broken",
        "_buffer",
        "_need",
        "_pieces",
        "_size",
        "closed",
        "max_value",
        "replies",
    )

    def __init__(self, max_value: int = MAX_VALUE) -> None:
        """
        Args:
            max_value: longest value that is taken, in bytes; a longer one is a `BadReply`.
        """
        self.max_value = max_value
        self.replies: list[Reply] = []
        self.closed = 0
        self._buffer = b""
        self._pieces: list[bytes] = []
        self._size = 0
        self._need = 0
        self._broken = ""

    @property
    def held(self) -> int:
        """Bytes of an unfinished reply in memory."""
        return self._size

    def take(self) -> list[Reply]:
        """Hand over the replies that are complete, and start counting anew."""
        replies, self.replies, self.closed = self.replies, [], 0
        return replies

    def feed(self, data: bytes) -> None:
        """Take what arrived; whole replies are added to `replies`.

        Raises:
            BadReply: the stream is no stream of replies.
        """
        if self._broken:
            raise BadReply(self._broken)
        if self._size:
            self._pieces.append(data)
            self._size += len(data)
            if self._size < self._need:
                return
            data = b"".join(self._pieces)
            self._pieces.clear()
        try:
            rest = self._read(data)
        except BadReply as error:
            # Its words alone: the exception holds on to this frame, and so to this parser.
            self._broken = str(error)
            raise
        if rest == len(data):
            self._size = 0
            return
        self._pieces.append(data[rest:] if rest else data)
        self._size = len(data) - rest

    def _read(self, buffer: bytes) -> int:
        """Read whole replies; return where the first unfinished one starts."""
        replies = self.replies
        start = 0
        self._need = 0
        while True:
            end = buffer.find(b"\r\n", start, start + MAX_LINE + 2)
            if end < 0:
                if len(buffer) - start > MAX_LINE + 1:
                    raise BadReply(f"a reply line longer than {MAX_LINE} bytes")
                return start
            line = buffer[start:end]
            if line.startswith(b"VALUE "):
                words = line.split(b" ")
                if not (
                    4 <= len(words) <= 5
                    and words[2].isdigit()
                    and words[3].isdigit()
                    and words[-1].isdigit()
                ):
                    raise BadReply(f"not a reply: {line[:80]!r}")
                flags, size = int(words[2]), int(words[3])
                cas = int(words[4]) if len(words) == 5 else None
                after = end + 2
                end = self._value_end(after, size)
                if len(buffer) < end + 2:
                    self._need = end + 2 - start
                    return start
                if buffer[end : end + 2] != b"\r\n":
                    raise BadReply(f"a value of {size} bytes that does not end there")
                replies.append(Value(words[1], flags, buffer[after:end], cas))
                start = end + 2
                continue
            status = _STATUS.get(line)
            if status is not None:
                replies.append(status)
                self.closed += 1
                start = end + 2
                continue
            if line.startswith(b"VA "):
                words = line.split(b" ")
                if not words[1].isdigit():
                    raise BadReply(f"not a reply: {line[:80]!r}")
                after = end + 2
                end = self._value_end(after, int(words[1]))
                if len(buffer) < end + 2:
                    self._need = end + 2 - start
                    return start
                if buffer[end : end + 2] != b"\r\n":
                    raise BadReply(f"a value of {end - after} bytes that does not end there")
                replies.append(Meta(b"VA", tuple(filter(None, words[2:])), buffer[after:end]))
                self.closed += 1
            else:
                reply = _line_reply(line)
                replies.append(reply)
                if type(reply) is not Stat:
                    self.closed += 1
            start = end + 2

    def _value_end(self, start: int, size: int) -> int:
        if not 0 <= size <= self.max_value:
            raise BadReply(f"a value of {size} bytes announced; at most {self.max_value} are read")
        return start + size


def _line_reply(line: bytes) -> Reply:
    """A reply of one line that is more than a fixed word."""
    word, _, rest = line.partition(b" ")
    if word == b"STAT":
        name, _, value = rest.partition(b" ")
        return Stat(name, value)
    if word.isdigit():
        # decr leaves the value's length as it was, padded with spaces; so may its reply be.
        if rest.strip(b" ") or len(word) > 20:
            raise BadReply(f"not a reply: {line[:80]!r}")
        return Number(int(word))
    if word in _META:
        return Meta(word, tuple(filter(None, rest.split(b" "))), None)
    if word == b"VERSION":
        return Version(rest)
    if word == b"SERVER_ERROR":
        return Failure("SERVER_ERROR", rest)
    if word == b"CLIENT_ERROR":
        return Failure("CLIENT_ERROR", rest)
    if word == b"ERROR":
        return Failure("ERROR", rest)
    raise BadReply(f"not a reply: {line[:80]!r}")


def encode(reply: Reply) -> bytes:
    """The bytes of a reply: what `ReplyParser` reads back into an equal one."""
    match reply:
        case Status():
            return b"%b\r\n" % reply.value
        case Value(key, flags, data, cas):
            unique = b"" if cas is None else b" %d" % cas
            return b"VALUE %b %d %d%b\r\n%b\r\n" % (key, flags, len(data), unique, data)
        case Stat(name, value):
            return b"STAT %b %b\r\n" % (name, value)
        case Number(value):
            return b"%d\r\n" % value
        case Version(text):
            return b"VERSION %b\r\n" % text
        case Failure(kind, text):
            return b" ".join([kind.encode(), *([text] if text else [])]) + b"\r\n"
        case Meta(code, words, data):
            if data is None:
                return b" ".join([code, *words]) + b"\r\n"
            return b"%b\r\n%b\r\n" % (b" ".join([code, b"%d" % len(data), *words]), data)
