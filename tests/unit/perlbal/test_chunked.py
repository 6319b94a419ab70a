"""Bodies in chunks: decoded wherever they are cut, refused where they are ambiguous."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.perlbal.http.chunked import LAST_CHUNK, ChunkDecoder, chunk
from lj_services.perlbal.http.errors import BadMessage

pytestmark = pytest.mark.unit


def decode(pieces: list[bytes]) -> tuple[bytes, bool, bytes]:
    """The data, whether the body has ended, and what came behind it."""
    decoder = ChunkDecoder(400)
    data = b""
    rest = b""
    for number, piece in enumerate(pieces):
        data += decoder.feed(piece)
        if decoder.done:
            rest = decoder.rest + b"".join(pieces[number + 1 :])
            break
    return data, decoder.done, rest


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=30),
    st.binary(max_size=5),
)
def test_what_is_encoded_is_decoded_however_it_is_cut(
    chunks: list[bytes], cuts: list[int], behind: bytes
) -> None:
    wire = b"".join(map(chunk, chunks)) + LAST_CHUNK + behind
    pieces = []
    position = 0
    while position < len(wire):
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(wire[position : position + size])
        position += size
    assert decode(pieces) == (b"".join(chunks), True, behind)


def test_extensions_and_trailers_are_read_past() -> None:
    wire = b'5;a=b;c="d e"\r\nhello\r\n0;x\r\nX-Trailer: 1\r\n\r\nGET'
    assert decode([wire]) == (b"hello", True, b"GET")


REFUSED = {
    "no size": b"\r\nhello\r\n",
    "size with 0x": b"0x5\r\nhello\r\n",
    "size with a sign": b"+5\r\nhello\r\n",
    "negative size": b"-5\r\nhello\r\n",
    "space before the size": b" 5\r\nhello\r\n",
    "space behind the size": b"5 \r\nhello\r\n",
    "size that overflows": b"fffffffffffffffff\r\n",
    "bare LF behind the size": b"5\nhello\r\n",
    "bare LF behind the data": b"5\r\nhello\n0\r\n\r\n",
    "data longer than its size": b"5\r\nhelloo\r\n0\r\n\r\n",
    "bare CR in an extension": b"5;a\rb\r\nhello\r\n",
    "bare LF in an extension": b"5;a\nb\r\nhello\r\n",
    "NUL in an extension": b"5;a\x00\r\nhello\r\n",
    "endless extension": b"5;" + b"a" * 1000,
    "endless extension, complete": b"5;" + b"a" * 1000 + b"\r\nhello\r\n",
    "malformed trailer": b"0\r\nX Y: z\r\n\r\n",
    "folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "endless trailer": b"0\r\n" + b"A: b\r\n" * 3000,
}


@pytest.mark.parametrize("wire", REFUSED.values(), ids=REFUSED.keys())
def test_ambiguous_chunks_are_refused(wire: bytes) -> None:
    with pytest.raises(BadMessage) as caught:
        decode([wire])
    assert caught.value.status == 400
    with pytest.raises(BadMessage):
        decode([wire[i : i + 1] for i in range(len(wire))])


@given(st.binary(max_size=300))
def test_nothing_but_bad_message_is_raised(wire: bytes) -> None:
    decoder = ChunkDecoder(502)
    with suppress(BadMessage):
        decoder.feed(wire)
