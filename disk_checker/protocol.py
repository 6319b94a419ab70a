"""The wire between victim and listener, and the journal's format: bytes <-> messages.

Sans-I/O: no sockets, no files, no clock.

Both are a sequence of frames: ``<u32 length of payload> <u32 CRC-32 of kind and payload>
<u8 kind> <payload>``, little-endian.  A journal is what was received, frame for frame,
each batch after a ``HEARD`` frame with the listener's clock; a frame that a crash cut
short fails its CRC and ends the journal.

A run, as diskchecker.pl's users know it: its ``pre`` is INTENTS, its ``ok`` is GRANTED,
its ``post`` is DONE, its ``read`` is ASK.  The difference is that none of them is waited
for per write: intents go ahead of the writes by some hundred, acknowledgements follow in
groups, and the listener answers a group with one number.

    victim                                listener
    OPEN      what will be written   ->
                                     <-   OPENED    the run's id
    INTENTS   first seq, blocks      ->             (journal, fsync)
                                     <-   GRANTED   every intent up to seq is on disk
              write, fsync
    DONE      (seq, time) ...        ->             (journal, fsync)
                                     <-   RECORDED  so many acknowledgements are on disk
    NOTE      error, stop, cut ...   ->
    ...power...
    ASK       which run              ->
                                     <-   RECORD    the run's plan and totals
    RANGE     first block, count     ->
                                     <-   STATES    per block: acknowledged seq, its time
    RESULT    the report             ->
                                     <-   KEPT
"""

from __future__ import annotations

import json
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from disk_checker.errors import ProtocolError

MAX_PAYLOAD = 4 << 20
VERSION = 1


class Kind(IntEnum):
    """The frames' kinds."""

    OPEN = 1
    OPENED = 2
    INTENTS = 3
    GRANTED = 4
    DONE = 5
    RECORDED = 6
    NOTE = 7
    NOTED = 8
    ASK = 9
    RECORD = 10
    RANGE = 11
    STATES = 12
    RESULT = 13
    KEPT = 14
    REFUSED = 15
    HEARD = 16


class Frame(NamedTuple):
    """One message: its kind and its undecoded payload."""

    kind: Kind
    payload: bytes


_HEAD = struct.Struct("<IIB")
_U64 = struct.Struct("<Q")
_PAIR = struct.Struct("<QQ")

HEAD_SIZE = _HEAD.size


def encode(kind: Kind, payload: bytes = b"") -> bytes:
    """One frame as bytes."""
    if len(payload) > MAX_PAYLOAD:
        raise ProtocolError(f"a {kind.name} message of {len(payload)} bytes is too long")
    crc = zlib.crc32(payload, zlib.crc32(bytes([kind])))
    return _HEAD.pack(len(payload), crc, kind) + payload


class FrameReader:
    """Cuts a stream of bytes into frames.

    ``consumed`` counts the bytes of complete, undamaged frames: for a journal, the
    length that is good.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.consumed = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Add bytes; yield every frame that is complete by now.

        :raises ProtocolError: on a wrong checksum, an unknown kind or an oversized frame.
        """
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= HEAD_SIZE:
                length, crc, kind = _HEAD.unpack_from(self._buffer, at)
                if length > MAX_PAYLOAD:
                    raise ProtocolError("not disk-checker's protocol: a message is too long")
                end = at + HEAD_SIZE + length
                if len(self._buffer) < end:
                    return
                payload = bytes(memoryview(self._buffer)[at + HEAD_SIZE : end])
                if zlib.crc32(payload, zlib.crc32(bytes([kind]))) != crc:
                    raise ProtocolError("a message arrived damaged: its checksum is wrong")
                try:
                    known = Kind(kind)
                except ValueError:
                    raise ProtocolError(f"unknown kind of message: {kind}") from None
                at = end
                self.consumed += HEAD_SIZE + length
                yield Frame(known, payload)
        finally:
            del self._buffer[:at]


def encode_json(kind: Kind, value: dict[str, Any]) -> bytes:
    """A frame whose payload is a JSON object."""
    return encode(kind, json.dumps(value, separators=(",", ":")).encode())


def decode_json(frame: Frame) -> dict[str, Any]:
    """The JSON object of an OPEN, OPENED, NOTE, ASK, RECORD, RESULT or REFUSED frame."""
    try:
        value = json.loads(frame.payload)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ProtocolError(f"a {frame.kind.name} message is not a JSON object")
    return value


def encode_number(kind: Kind, number: int) -> bytes:
    """A GRANTED, RECORDED or HEARD frame."""
    return encode(kind, _U64.pack(number))


def decode_number(frame: Frame) -> int:
    """The number of a GRANTED, RECORDED or HEARD frame."""
    if len(frame.payload) != _U64.size:
        raise ProtocolError(f"a {frame.kind.name} message must be one number")
    number: int = _U64.unpack(frame.payload)[0]
    return number


def encode_intents(first: int, blocks: Sequence[int]) -> bytes:
    """Writes first, first + 1 ... will go to these blocks."""
    return encode(Kind.INTENTS, _U64.pack(first) + array("Q", blocks).tobytes())


def decode_intents(frame: Frame) -> tuple[int, array[int]]:
    """(first seq, blocks) of an INTENTS frame."""
    if len(frame.payload) % 8 or len(frame.payload) < 16:
        raise ProtocolError("an INTENTS message must be a number and at least one block")
    numbers = array("Q", frame.payload)
    return numbers[0], numbers[1:]


def encode_done(pairs: Sequence[int]) -> bytes:
    """Acknowledgements: seq, time in µs, seq, time ... flat."""
    return encode(Kind.DONE, array("Q", pairs).tobytes())


def decode_done(frame: Frame) -> array[int]:
    """The flat seq, time, seq, time ... of a DONE frame; empty as a heartbeat."""
    if len(frame.payload) % 16:
        raise ProtocolError("a DONE message must be pairs of numbers")
    return array("Q", frame.payload)


def encode_range(first: int, count: int) -> bytes:
    """Ask for the states of blocks first .. first + count - 1."""
    return encode(Kind.RANGE, _PAIR.pack(first, count))


def decode_range(frame: Frame) -> tuple[int, int]:
    """(first block, count) of a RANGE frame."""
    if len(frame.payload) != _PAIR.size:
        raise ProtocolError("a RANGE message must be two numbers")
    first, count = _PAIR.unpack(frame.payload)
    return first, count
