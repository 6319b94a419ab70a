"""Messages survive any cutting of the stream; damage and nonsense are refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disk_checker import protocol
from disk_checker.errors import ProtocolError
from disk_checker.protocol import Frame, FrameReader, Kind

pytestmark = pytest.mark.unit

frames = st.lists(st.tuples(st.sampled_from(list(Kind)), st.binary(max_size=300)), max_size=8)


@given(frames, st.lists(st.integers(1, 50), min_size=1))
@settings(deadline=None)
def test_frames_survive_any_cutting(messages: list[tuple[Kind, bytes]], sizes: list[int]) -> None:
    stream = b"".join(protocol.encode(kind, payload) for kind, payload in messages)
    reader, got, at, turn = FrameReader(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        got += reader.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert got == [Frame(kind, payload) for kind, payload in messages]
    assert reader.consumed == len(stream)


@given(st.binary(max_size=2000))
@settings(deadline=None)
def test_any_bytes_are_frames_or_a_protocol_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        list(FrameReader().feed(data))


def test_every_flipped_bit_is_noticed() -> None:
    good = protocol.encode_intents(7, [1, 2, 3])
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        got = []
        with contextlib.suppress(ProtocolError):
            got = list(FrameReader().feed(bytes(bad)))
        assert got == []


def test_messages_round_trip() -> None:
    (intents, done, number, span) = FrameReader().feed(
        protocol.encode_intents(9, [5, 1 << 40])
        + protocol.encode_done([9, 100, 10, 200])
        + protocol.encode_number(Kind.GRANTED, 1 << 50)
        + protocol.encode_range(4096, 12)
    )
    first, blocks = protocol.decode_intents(intents)
    assert (first, list(blocks)) == (9, [5, 1 << 40])
    assert list(protocol.decode_done(done)) == [9, 100, 10, 200]
    assert protocol.decode_number(number) == 1 << 50
    assert protocol.decode_range(span) == (4096, 12)


@pytest.mark.parametrize(
    ("decode", "payload"),
    [
        (protocol.decode_json, b"[1]"),
        (protocol.decode_json, b"\xff"),
        (protocol.decode_json, b"[" * 100_000),
        (protocol.decode_number, b"1234567"),
        (protocol.decode_intents, b"12345678"),
        (protocol.decode_done, b"12345678"),
        (protocol.decode_range, b""),
    ],
)
def test_wrong_payloads_are_refused(decode: object, payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(Frame(Kind.NOTE, payload))  # type: ignore[operator]


def test_an_oversized_message_is_refused_before_it_is_gathered() -> None:
    with pytest.raises(ProtocolError, match="too long"):
        list(FrameReader().feed(b"\xff\xff\xff\x7f" + bytes(5)))
