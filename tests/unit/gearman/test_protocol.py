"""Gearman's packets: their numbers, their arguments, and any way of cutting them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.gearman.protocol import (
    HEADER,
    LARGE,
    MAX_LINE,
    SHAPES,
    BadPacket,
    BrokenStream,
    Line,
    Magic,
    Packet,
    PacketParser,
    PacketType,
    ProtocolError,
    answer_parts,
    pack,
    request,
    response,
)

pytestmark = pytest.mark.unit

T = PacketType


def read(parser: PacketParser, *pieces: bytes) -> list[object]:
    """Everything that the pieces yield; errors as (class, code)."""
    found: list[object] = []
    for piece in pieces:
        parser.feed(piece)
        while True:
            try:
                got = parser.next()
            except BadPacket as error:
                found.append((BadPacket, error.code))
                continue
            except BrokenStream as error:
                if (BrokenStream, error.code) not in found:
                    found.append((BrokenStream, error.code))
                break
            if got is None:
                break
            found.append(got)
    return found


def one(magic: Magic, data: bytes) -> object:
    found = read(PacketParser(magic), data)
    assert len(found) == 1
    return found[0]


def test_every_type_has_a_shape() -> None:
    assert set(SHAPES) == set(PacketType)
    assert [int(kind) for kind in PacketType] == [*range(1, 5), *range(6, 43)]


@pytest.mark.parametrize(
    ("kind", "count", "data", "ways"),
    [
        (T.CAN_DO, 1, False, "Q"),
        (T.NOOP, 0, False, "S"),
        (T.SUBMIT_JOB, 3, True, "Q"),
        (T.SUBMIT_JOB_LOW_BG, 3, True, "Q"),
        (T.JOB_ASSIGN, 3, True, "S"),
        (T.JOB_ASSIGN_UNIQ, 4, True, "S"),
        (T.JOB_ASSIGN_ALL, 5, True, "S"),
        (T.WORK_STATUS, 3, False, "QS"),
        (T.WORK_COMPLETE, 2, True, "QS"),
        (T.WORK_FAIL, 1, False, "QS"),
        (T.WORK_EXCEPTION, 2, True, "QS"),
        (T.ECHO_REQ, 1, True, "Q"),
        (T.ERROR, 2, False, "S"),
        (T.STATUS_RES, 5, False, "S"),
        (T.STATUS_RES_UNIQUE, 6, False, "S"),
        (T.CAN_DO_TIMEOUT, 2, False, "Q"),
        (T.SUBMIT_JOB_SCHED, 8, True, "Q"),
        (T.SUBMIT_JOB_EPOCH, 4, True, "Q"),
        (T.SUBMIT_REDUCE_JOB, 5, True, "Q"),
        (T.SUBMIT_REDUCE_JOB_BACKGROUND, 5, True, "Q"),
    ],
)
def test_shapes_are_the_protocols(kind: PacketType, count: int, data: bool, ways: str) -> None:
    shape = SHAPES[kind]
    assert len(shape.arguments) == count
    assert shape.data is data
    expected = {"Q": Magic.REQUEST, "S": Magic.RESPONSE}
    assert shape.directions == {expected[way] for way in ways}


def test_bytes_of_a_packet() -> None:
    assert request(T.SUBMIT_JOB, b"up", b"key", b"a\0b") == (
        b"\0REQ\0\0\0\x07\0\0\0\x0aup\0key\0a\0b"
    )
    assert response(T.NO_JOB) == b"\0RES\0\0\0\x0a\0\0\0\0"


def test_data_may_hold_nuls_and_nothing_else_may() -> None:
    assert one(Magic.RESPONSE, response(T.WORK_DATA, b"H:a:1", b"\0\0")) == Packet(
        Magic.RESPONSE, T.WORK_DATA, (b"H:a:1", b"\0\0")
    )
    with pytest.raises(ProtocolError, match="NUL"):
        request(T.CAN_DO, b"a\0b")
    with pytest.raises(ProtocolError, match="NUL"):
        request(T.SUBMIT_JOB, b"a", b"\0", b"")


def test_wrong_arguments_are_not_packed() -> None:
    with pytest.raises(ProtocolError, match="2 arguments"):
        response(T.WORK_COMPLETE, b"H:a:1")
    with pytest.raises(ProtocolError, match="none"):
        request(T.PRE_SLEEP, b"")
    with pytest.raises(ProtocolError, match="this way"):
        request(T.NOOP)


def test_an_end_mark_behind_the_last_argument_is_forgiven() -> None:
    body = b"H:a:1\0"
    raw = HEADER.pack(b"\0RES", T.WORK_FAIL, len(body)) + body
    assert one(Magic.RESPONSE, raw) == Packet(Magic.RESPONSE, T.WORK_FAIL, (b"H:a:1",))


def test_large_data_is_what_it_was_gathered_in() -> None:
    parser = PacketParser(Magic.REQUEST, uncopied=LARGE)
    large, small = bytes(LARGE), b"x"
    for data, kind in ((large, bytearray), (small, bytes)):
        [packet] = read(parser, request(T.SUBMIT_JOB, b"up", b"", data))
        assert isinstance(packet, Packet)
        assert packet.args == (b"up", b"", data)
        assert [type(argument) for argument in packet.args] == [bytes, bytes, kind]


@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE])
def test_an_answer_in_parts_is_the_same_answer(size: int) -> None:
    args = b"H:a:1", b"up", bytes(size)
    parts = answer_parts(T.JOB_ASSIGN, *args)
    assert b"".join(parts) == response(T.JOB_ASSIGN, *args)
    assert len(parts) == 1 + (size >= LARGE)


def test_empty_last_arguments_are_kept() -> None:
    raw = response(T.STATUS_RES, b"H:a:1", b"0", b"0", b"", b"")
    assert one(Magic.RESPONSE, raw) == Packet(
        Magic.RESPONSE, T.STATUS_RES, (b"H:a:1", b"0", b"0", b"", b"")
    )


@pytest.mark.parametrize(
    ("number", "body", "code"),
    [
        (0, b"", "INVALID_COMMAND"),
        (5, b"x", "INVALID_COMMAND"),
        (43, b"", "INVALID_COMMAND"),
        (0xFFFFFFFF, b"", "INVALID_COMMAND"),
        (T.JOB_CREATED, b"H:a:1", "INVALID_COMMAND"),
        (T.PRE_SLEEP, b"x", "INVALID_ARGUMENTS"),
        (T.SUBMIT_JOB, b"up\0key", "INVALID_ARGUMENTS"),
        (T.SUBMIT_JOB, b"", "INVALID_ARGUMENTS"),
        (T.CAN_DO, b"a\0b", "INVALID_ARGUMENTS"),
    ],
)
def test_a_bad_packet_does_not_end_the_stream(number: int, body: bytes, code: str) -> None:
    raw = HEADER.pack(b"\0REQ", number, len(body)) + body
    assert read(PacketParser(Magic.REQUEST), raw + request(T.GRAB_JOB)) == [
        (BadPacket, code),
        Packet(Magic.REQUEST, T.GRAB_JOB, ()),
    ]


@pytest.mark.parametrize("start", [b"\0RES", b"\0R\0", b"\0\0", b"\0REX" + bytes(20)])
def test_the_wrong_magic_is_known_at_once(start: bytes) -> None:
    parser = PacketParser(Magic.REQUEST)
    assert read(parser, start) == [(BrokenStream, "INVALID_MAGIC")]
    with pytest.raises(BrokenStream):
        parser.next()


def test_a_client_reads_no_text() -> None:
    assert read(PacketParser(Magic.RESPONSE), b"OK") == [(BrokenStream, "INVALID_MAGIC")]
    assert read(PacketParser(Magic.RESPONSE, lines=True), b"OK\n") == [Line(b"OK")]


def test_a_body_beyond_the_limit_is_refused_by_its_header() -> None:
    parser = PacketParser(Magic.REQUEST, max_body=10)
    assert read(parser, request(T.ECHO_REQ, bytes(10))) == [
        Packet(Magic.REQUEST, T.ECHO_REQ, (bytes(10),))
    ]
    assert read(parser, HEADER.pack(b"\0REQ", T.ECHO_REQ, 11)) == [
        (BrokenStream, "PACKET_TOO_LARGE")
    ]
    assert parser.held == 0


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_and_packets_alternate(end: bytes) -> None:
    raw = b"status" + end + request(T.GRAB_JOB) + end + b"version" + end
    assert read(PacketParser(Magic.REQUEST), raw) == [
        Line(b"status"),
        Packet(Magic.REQUEST, T.GRAB_JOB, ()),
        Line(b""),
        Line(b"version"),
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_longest_line(end: bytes) -> None:
    longest = b"x" * MAX_LINE
    for pieces in ([longest + end], [longest, end], [(longest + end)[:-1], end[-1:]]):
        assert read(PacketParser(Magic.REQUEST), *pieces) == [Line(longest)]
        longer = [b"x" + pieces[0], *pieces[1:]]
        assert read(PacketParser(Magic.REQUEST), *longer) == [(BrokenStream, "LINE_TOO_LONG")]


def test_a_line_without_an_end_is_not_gathered() -> None:
    parser = PacketParser(Magic.REQUEST)
    assert read(parser, b"x" * 1_000_000) == [(BrokenStream, "LINE_TOO_LONG")]
    assert parser.held == 0


@st.composite
def packets(draw: st.DrawFn, magic: Magic) -> Packet:
    kind = draw(st.sampled_from([k for k, s in SHAPES.items() if magic in s.directions]))
    shape = SHAPES[kind]
    plain = st.binary(max_size=8).map(lambda raw: raw.replace(b"\0", b"0"))
    args = [draw(plain) for _ in shape.arguments]
    if shape.data:
        args[-1] = draw(st.binary(max_size=40))
    return Packet(magic, kind, tuple(args))


@st.composite
def cut(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    at = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    return [raw[a:b] for a, b in zip([0, *at], [*at, len(raw)], strict=True)]


UNCOPIED = st.sampled_from([None, 0, 10])


@given(st.data(), st.sampled_from(Magic))
def test_what_was_packed_is_read_however_it_is_cut(data: st.DataObject, magic: Magic) -> None:
    sent = data.draw(st.lists(packets(magic), max_size=6))
    raw = b"".join(pack(packet.magic, packet.type, *packet.args) for packet in sent)
    parser = PacketParser(magic, uncopied=data.draw(UNCOPIED))
    assert read(parser, *data.draw(cut(raw))) == sent
    assert parser.held == 0


PIECES = st.one_of(
    st.binary(max_size=20),
    st.builds(
        lambda magic, number, length, body: HEADER.pack(magic, number, length) + body,
        st.sampled_from([b"\0REQ", b"\0RES", b"\0REX"]),
        st.integers(0, 45),
        st.integers(0, 12),
        st.binary(max_size=12),
    ),
    packets(Magic.REQUEST).map(lambda p: pack(p.magic, p.type, *p.args)),
    st.sampled_from([b"\n", b"\r", b"status\n", b"x" * 40]),
)


@given(st.data(), st.lists(PIECES, max_size=6).map(b"".join))
def test_any_bytes_mean_the_same_however_they_are_cut(data: st.DataObject, raw: bytes) -> None:
    def parser(uncopied: int | None = None) -> PacketParser:
        return PacketParser(Magic.REQUEST, max_body=30, max_line=32, uncopied=uncopied)

    assert read(parser(data.draw(UNCOPIED)), *data.draw(cut(raw))) == read(parser(), raw)
