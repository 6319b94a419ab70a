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
from typing import Final, NamedTuple, cast

from lj_services.gearman.packets import SHAPES as SHAPES
from lj_services.gearman.packets import Magic as Magic
from lj_services.gearman.packets import PacketType as PacketType

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
LEAST_TIMEOUT_MS: Final = 1000
"""Least time limit of a job, in milliseconds, as the protocol has it.  What is less is meant in
seconds: Perl's workers, and others after them, give seconds."""

LARGE: Final = 1 << 20
"""Data of so many bytes is not copied on its way through a server: copying it would keep all
others waiting."""


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


def answer_parts(kind: PacketType, *args: bytes) -> tuple[bytes, ...]:
    """The bytes of a packet as `answer` makes them, in parts: large data is one by itself."""
    if not args or len(args[-1]) < LARGE:
        return (answer(kind, *args),)
    length = sum(map(len, args)) + len(args) - 1
    return HEADER.pack(b"\0RES", kind, length) + b"\0".join((*args[:-1], b"")), args[-1]


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
        uncopied: bytes of a body from which on its data is the bytearray that it was gathered
            in, which takes no time; None: it always is bytes.
    """

    def __init__(
        self,
        magic: Magic,
        *,
        lines: bool | None = None,
        max_body: int = MAX_BODY,
        max_line: int = MAX_LINE,
        uncopied: int | None = None,
    ) -> None:
        self._large = max_body + 1 if uncopied is None else uncopied
        self._magic = magic
        self._start = bytes(magic.value)
        self._lines = magic is Magic.REQUEST if lines is None else lines
        self._max_body = max_body
        self._max_line = max_line
        self._buffer = bytearray()
        self._position = 0  # where the next packet or line starts
        self._searched = 0  # up to where there is no end of line
        # Why nothing more can be read: text and code.  No exception is kept: with its traceback
        # it would keep this parser, and the connection with all that it has read.
        self._broken: tuple[str, str] | None = None

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
            raise BrokenStream(*self._broken)
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
        if length >= self._large:
            packet = self._take_large(number, start + HEADER.size, end)
            if packet is not None:
                return packet
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

    def _take_large(self, number: int, position: int, end: int) -> Packet | None:
        """A packet whose data is what the buffer is left as; None: it has none, or is wrong."""
        kind_and_shape, buffer = _BY_NUMBER.get(number), self._buffer
        if kind_and_shape is None or self._magic not in kind_and_shape[1].directions:
            return None
        kind, (names, _, data) = kind_and_shape
        if not data:
            return None
        args = []
        for _ in names[1:]:
            cut = buffer.find(b"\0", position, end)
            if cut < 0:
                return None
            args.append(bytes(buffer[position:cut]))
            position = cut + 1
        self._buffer = buffer[end:]
        self._position = self._searched = 0
        del buffer[end:]
        del buffer[:position]  # moves nothing: a bytearray may start later than its memory
        # It can do what bytes can, but be a key; and nobody changes it any more.
        return Packet(self._magic, kind, (*args, cast(bytes, buffer)))

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
        self._broken = (text, code)
        self._buffer.clear()
        self._position = self._searched = 0
        raise BrokenStream(text, code)


_BY_NUMBER: Final = {int(kind): (kind, shape) for kind, shape in SHAPES.items()}
