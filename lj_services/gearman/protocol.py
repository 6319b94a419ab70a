"""Gearman's binary protocol: packets to bytes, and bytes to packets wherever they are cut.

A packet is a header of twelve bytes (magic, type, length of the body; big endian) and a
body of arguments with a NUL between them.  The last argument has no end mark: it reaches
as far as the body, and where it is data it may hold NULs itself.  A connection to a
server may also carry lines of text (the administrator's commands); what comes next is
told by its first byte, which is NUL for a packet and never for a line.

Nothing here knows sockets.  The numbers and arguments are those of the protocol's
published description (PROTOCOL, in gearmand's documentation), with the two places where
the servers and clients in use differ from it: ``SUBMIT_REDUCE_JOB`` has five arguments,
and ``STATUS_RES_UNIQUE`` starts with the unique key.
"""

from __future__ import annotations

import struct
from enum import Enum, IntEnum
from typing import Final, NamedTuple

HEADER: Final = struct.Struct(">4sII")
"""Magic, type, bytes of the body."""

MAX_BODY: Final = 64 << 20
"""Largest body that is read or written unless another limit is given, in bytes."""
MAX_LINE: Final = 8192
"""Longest line of text, in bytes without its end."""
MAX_FUNCTION: Final = 512
"""Longest name of a function, in bytes."""
MAX_UNIQUE: Final = 64
"""Longest unique key, in bytes."""
MAX_HANDLE: Final = 64
"""Longest job handle, in bytes."""
MAX_CLIENT_ID: Final = 127
"""Longest name that a worker may give itself, in bytes."""


class Magic(bytes, Enum):
    """Which way a packet goes."""

    REQUEST = b"\0REQ"
    """To the server."""
    RESPONSE = b"\0RES"
    """From the server."""


class PacketType(IntEnum):
    """Every packet of the protocol, by its number.  5 was never given to one."""

    CAN_DO = 1
    CANT_DO = 2
    RESET_ABILITIES = 3
    PRE_SLEEP = 4
    NOOP = 6
    SUBMIT_JOB = 7
    JOB_CREATED = 8
    GRAB_JOB = 9
    NO_JOB = 10
    JOB_ASSIGN = 11
    WORK_STATUS = 12
    WORK_COMPLETE = 13
    WORK_FAIL = 14
    GET_STATUS = 15
    ECHO_REQ = 16
    ECHO_RES = 17
    SUBMIT_JOB_BG = 18
    ERROR = 19
    STATUS_RES = 20
    SUBMIT_JOB_HIGH = 21
    SET_CLIENT_ID = 22
    CAN_DO_TIMEOUT = 23
    ALL_YOURS = 24
    WORK_EXCEPTION = 25
    OPTION_REQ = 26
    OPTION_RES = 27
    WORK_DATA = 28
    WORK_WARNING = 29
    GRAB_JOB_UNIQ = 30
    JOB_ASSIGN_UNIQ = 31
    SUBMIT_JOB_HIGH_BG = 32
    SUBMIT_JOB_LOW = 33
    SUBMIT_JOB_LOW_BG = 34
    SUBMIT_JOB_SCHED = 35
    SUBMIT_JOB_EPOCH = 36
    SUBMIT_REDUCE_JOB = 37
    SUBMIT_REDUCE_JOB_BACKGROUND = 38
    GRAB_JOB_ALL = 39
    JOB_ASSIGN_ALL = 40
    GET_STATUS_UNIQUE = 41
    STATUS_RES_UNIQUE = 42


class Shape(NamedTuple):
    """What a type of packet carries, and which way it goes."""

    arguments: tuple[str, ...]
    """Names of the arguments, in order."""
    directions: frozenset[Magic]
    data: bool
    """Whether the last argument may hold any bytes, NULs included."""


_TO_SERVER = frozenset({Magic.REQUEST})
_FROM_SERVER = frozenset({Magic.RESPONSE})
_BOTH = _TO_SERVER | _FROM_SERVER


def _shape(directions: frozenset[Magic], arguments: str = "") -> Shape:
    names = tuple(arguments.split())
    return Shape(names, directions, names[-1:] == ("data",))


SHAPES: Final[dict[PacketType, Shape]] = {
    PacketType.CAN_DO: _shape(_TO_SERVER, "function"),
    PacketType.CANT_DO: _shape(_TO_SERVER, "function"),
    PacketType.RESET_ABILITIES: _shape(_TO_SERVER),
    PacketType.PRE_SLEEP: _shape(_TO_SERVER),
    PacketType.NOOP: _shape(_FROM_SERVER),
    PacketType.SUBMIT_JOB: _shape(_TO_SERVER, "function unique data"),
    PacketType.JOB_CREATED: _shape(_FROM_SERVER, "handle"),
    PacketType.GRAB_JOB: _shape(_TO_SERVER),
    PacketType.NO_JOB: _shape(_FROM_SERVER),
    PacketType.JOB_ASSIGN: _shape(_FROM_SERVER, "handle function data"),
    PacketType.WORK_STATUS: _shape(_BOTH, "handle numerator denominator"),
    PacketType.WORK_COMPLETE: _shape(_BOTH, "handle data"),
    PacketType.WORK_FAIL: _shape(_BOTH, "handle"),
    PacketType.GET_STATUS: _shape(_TO_SERVER, "handle"),
    PacketType.ECHO_REQ: _shape(_TO_SERVER, "data"),
    PacketType.ECHO_RES: _shape(_FROM_SERVER, "data"),
    PacketType.SUBMIT_JOB_BG: _shape(_TO_SERVER, "function unique data"),
    PacketType.ERROR: _shape(_FROM_SERVER, "code text"),
    PacketType.STATUS_RES: _shape(_FROM_SERVER, "handle known running numerator denominator"),
    PacketType.SUBMIT_JOB_HIGH: _shape(_TO_SERVER, "function unique data"),
    PacketType.SET_CLIENT_ID: _shape(_TO_SERVER, "id"),
    PacketType.CAN_DO_TIMEOUT: _shape(_TO_SERVER, "function timeout"),
    PacketType.ALL_YOURS: _shape(_TO_SERVER),
    PacketType.WORK_EXCEPTION: _shape(_BOTH, "handle data"),
    PacketType.OPTION_REQ: _shape(_TO_SERVER, "option"),
    PacketType.OPTION_RES: _shape(_FROM_SERVER, "option"),
    PacketType.WORK_DATA: _shape(_BOTH, "handle data"),
    PacketType.WORK_WARNING: _shape(_BOTH, "handle data"),
    PacketType.GRAB_JOB_UNIQ: _shape(_TO_SERVER),
    PacketType.JOB_ASSIGN_UNIQ: _shape(_FROM_SERVER, "handle function unique data"),
    PacketType.SUBMIT_JOB_HIGH_BG: _shape(_TO_SERVER, "function unique data"),
    PacketType.SUBMIT_JOB_LOW: _shape(_TO_SERVER, "function unique data"),
    PacketType.SUBMIT_JOB_LOW_BG: _shape(_TO_SERVER, "function unique data"),
    PacketType.SUBMIT_JOB_SCHED: _shape(
        _TO_SERVER, "function unique minute hour mday month wday data"
    ),
    PacketType.SUBMIT_JOB_EPOCH: _shape(_TO_SERVER, "function unique epoch data"),
    PacketType.SUBMIT_REDUCE_JOB: _shape(_TO_SERVER, "function unique reducer unused data"),
    PacketType.SUBMIT_REDUCE_JOB_BACKGROUND: _shape(
        _TO_SERVER, "function unique reducer unused data"
    ),
    PacketType.GRAB_JOB_ALL: _shape(_TO_SERVER),
    PacketType.JOB_ASSIGN_ALL: _shape(_FROM_SERVER, "handle function unique reducer data"),
    PacketType.GET_STATUS_UNIQUE: _shape(_TO_SERVER, "unique"),
    PacketType.STATUS_RES_UNIQUE: _shape(
        _FROM_SERVER, "unique known running numerator denominator waiters"
    ),
}
"""What each type of packet carries."""


class ProtocolError(Exception):
    """Bytes that are no packet, or a packet that can't be made.

    Args:
        text: what is wrong, for people; it goes into an ``ERROR`` packet.
        code: the word by which programs know it.
    """

    def __init__(self, text: str, code: str = "INVALID_PACKET") -> None:
        super().__init__(text)
        self.code = code


class BadPacket(ProtocolError):
    """One packet is wrong, but it is known where the next one starts: reading can go on."""


class BrokenStream(ProtocolError):
    """It can't be known where the next packet starts: the connection must be closed."""


class Packet(NamedTuple):
    """One packet."""

    magic: Magic
    type: PacketType
    args: tuple[bytes, ...]


Outgoing = tuple[PacketType, tuple[bytes, ...]]
"""A packet to be sent: its type and arguments."""


class Line(NamedTuple):
    """A line of text, without its end."""

    text: bytes


def pack(magic: Magic, kind: PacketType, *args: bytes) -> bytes:
    """The bytes of a packet.

    Args:
        magic: which way it goes.
        kind: its type.
        args: as many as `SHAPES` says; only data may hold NULs.

    Raises:
        ProtocolError: the arguments don't make such a packet.
    """
    shape = SHAPES[kind]
    if magic not in shape.directions:
        raise ProtocolError(f"{kind.name} does not go this way ({magic.name})")
    if len(args) != len(shape.arguments):
        raise ProtocolError(
            f"{kind.name} takes {len(shape.arguments)} arguments "
            f"({', '.join(shape.arguments) or 'none'}), not {len(args)}"
        )
    body = b"\0".join(args)
    if any(b"\0" in argument for argument in (args[:-1] if shape.data else args)):
        raise ProtocolError(f"an argument of {kind.name} holds a NUL, which only data may")
    if len(body) > MAX_BODY:
        raise ProtocolError(f"{kind.name} of {len(body)} bytes: the limit is {MAX_BODY}")
    return HEADER.pack(magic.value, kind, len(body)) + body


def request(kind: PacketType, *args: bytes) -> bytes:
    """The bytes of a packet to the server; see `pack`."""
    return pack(Magic.REQUEST, kind, *args)


def response(kind: PacketType, *args: bytes) -> bytes:
    """The bytes of a packet from the server; see `pack`."""
    return pack(Magic.RESPONSE, kind, *args)


def answer(kind: PacketType, *args: bytes) -> bytes:
    """The bytes of a packet from the server, unchecked: for arguments that were checked
    when they came in."""
    body = b"\0".join(args)
    return HEADER.pack(b"\0RES", kind, len(body)) + body


_CREATED: Final = [HEADER.pack(b"\0RES", PacketType.JOB_CREATED, n) for n in range(MAX_HANDLE + 1)]


def created(handle: bytes) -> bytes:
    """The bytes of a ``JOB_CREATED``: every submission gets one."""
    return _CREATED[len(handle)] + handle


class PacketParser:
    """Makes packets, and lines of text, of bytes as they arrive.

    Feed it whatever was read, then call `next` until it has nothing more::

        parser.feed(data)
        while (got := parser.next()) is not None:
            ...

    Args:
        magic: which way the packets go that are expected: a server's parser reads
            requests, a client's and a worker's responses.
        lines: whether lines of text may come between packets; default: to a server, yes.
        max_body: largest body accepted, in bytes.
        max_line: longest line accepted, in bytes.
    """

    def __init__(
        self,
        magic: Magic,
        *,
        lines: bool | None = None,
        max_body: int = MAX_BODY,
        max_line: int = MAX_LINE,
    ) -> None:
        self._magic = magic
        self._start = bytes(magic.value)
        self._lines = magic is Magic.REQUEST if lines is None else lines
        self._max_body = max_body
        self._max_line = max_line
        self._buffer = bytearray()
        self._position = 0  # where the next packet or line starts
        self._searched = 0  # up to where there is no end of line
        self._broken: BrokenStream | None = None

    @property
    def held(self) -> int:
        """Bytes that wait for the rest of their packet or line."""
        return len(self._buffer) - self._position

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take in what was read."""
        if self._position:
            del self._buffer[: self._position]
            self._searched = max(0, self._searched - self._position)
            self._position = 0
        self._buffer += data

    def give_back(self) -> bytes:
        """What waits for the rest of its packet or line; it is forgotten here."""
        data = bytes(self._buffer[self._position :])
        self._buffer.clear()
        self._position = self._searched = 0
        return data

    def next(self) -> Packet | Line | None:
        """The next packet or line; None if more bytes are needed.

        Raises:
            BadPacket: this packet is wrong; it has been left out, and `next` may be
                called again.
            BrokenStream: nothing more can be read, now or later.
        """
        if self._broken is not None:
            raise self._broken
        buffer, start = self._buffer, self._position
        there = len(buffer) - start
        if there <= 0:
            return None
        if self._lines and buffer[start] != 0:
            return self._next_line()
        if there < HEADER.size:
            self._check_magic(bytes(buffer[start : start + 4]))
            return None
        magic, number, length = HEADER.unpack_from(buffer, start)
        if magic != self._start:
            self._check_magic(magic)
        if length > self._max_body:
            self._break(
                f"a packet of {length} bytes: the limit is {self._max_body}", "PACKET_TOO_LARGE"
            )
        end = start + HEADER.size + length
        if len(buffer) < end:
            return None
        self._position = end
        with memoryview(buffer) as view:
            body = bytes(view[start + HEADER.size : end])
        return self._packet(number, body)

    def _packet(self, number: int, body: bytes) -> Packet:
        shape = _BY_NUMBER.get(number)
        if shape is None or self._magic not in shape[1].directions:
            raise BadPacket("Command not expected", "INVALID_COMMAND")
        kind, (names, _, data) = shape
        if not names:
            if body:
                raise BadPacket(f"{kind.name} takes no arguments", "INVALID_ARGUMENTS")
            return Packet(self._magic, kind, ())
        if not data and body.endswith(b"\0") and body.count(b"\0") == len(names):
            body = body[:-1]  # some servers and clients end the last argument, too
        args = tuple(body.split(b"\0", len(names) - 1))
        if len(args) < len(names):
            raise BadPacket(
                f"{kind.name} takes {len(names)} arguments ({', '.join(names)}), not {len(args)}",
                "INVALID_ARGUMENTS",
            )
        if not data and b"\0" in args[-1]:
            raise BadPacket(
                f"{kind.name} takes {len(names)} arguments ({', '.join(names)}), not more",
                "INVALID_ARGUMENTS",
            )
        return Packet(self._magic, kind, args)

    def _next_line(self) -> Line | None:
        buffer, start = self._buffer, self._position
        end = buffer.find(b"\n", max(start, self._searched))
        length = (len(buffer) if end < 0 else end) - start
        if end >= 0 and buffer[end - 1 : end] == b"\r":
            length -= 1
        # of what has no end yet, the last byte may be a carriage return that is part of it
        if length > self._max_line + (end < 0):
            self._break(f"a line of more than {self._max_line} bytes", "LINE_TOO_LONG")
        if end < 0:
            self._searched = len(buffer)
            return None
        self._position = self._searched = end + 1
        return Line(bytes(buffer[start : start + length]))

    def _check_magic(self, there: bytes) -> None:
        if not self._start.startswith(there):
            way = "Request" if self._magic is Magic.REQUEST else "Response"
            self._break(f"{way} magic expected", "INVALID_MAGIC")

    def _break(self, text: str, code: str) -> None:
        self._broken = BrokenStream(text, code)
        self._buffer.clear()
        self._position = self._searched = 0
        raise self._broken


_BY_NUMBER: Final = {int(kind): (kind, shape) for kind, shape in SHAPES.items()}
