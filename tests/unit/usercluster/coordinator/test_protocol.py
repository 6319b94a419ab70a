"""Lines, requests and replies of the coordinator's protocol: splits, garbage, over-long lines."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.usercluster.coordinator.protocol import (
    BadRequest,
    Event,
    Lines,
    ProtocolError,
    Reply,
    ReplyReader,
    Request,
    named,
    parse_request,
    request,
    shown,
    tokens,
)

pytestmark = pytest.mark.unit

names = st.from_regex(r"[a-z_][a-z0-9_]{0,10}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


@given(st.lists(texts, max_size=6), st.lists(st.integers(0, 500), max_size=8))
def test_lines_however_they_are_split(lines: list[str], cuts: list[int]) -> None:
    data = "".join(f"{line}\r\n" for line in lines).encode()
    reader = Lines()
    heard = [line for piece in pieces(data, cuts) for line in reader.feed(piece)]
    assert heard == lines


@pytest.mark.parametrize("data", [b"x" * 100, b"x" * 100 + b"\n", b"ok\n" + b"y" * 65])
def test_a_line_that_is_too_long(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="64 bytes"):
        Lines(64).feed(data)
    byte_by_byte = Lines(64)

    def feed() -> None:
        for one in data:
            byte_by_byte.feed(bytes([one]))

    with pytest.raises(ProtocolError, match="64 bytes"):
        feed()


def test_the_longest_line() -> None:
    assert Lines(64).feed(b"x" * 64 + b"\n") == ["x" * 64]


@pytest.mark.parametrize("data", [b"\xff\xfe\n", b"get\x00job\n", b"\x1b[2J\n"])
def test_garbage_is_no_line(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Lines().feed(data)


@given(st.binary(max_size=300))
def test_whatever_comes_is_a_request_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        for line in Lines(200).feed(data + b"\n"):
            with contextlib.suppress(BadRequest):
                parse_request(line)


@given(
    names,
    st.lists(texts.filter(lambda text: "=" not in text and text), max_size=3),
    st.dictionaries(names.filter(lambda name: not name.endswith("_")), texts, max_size=4),
)
def test_requests_come_through(command: str, words: list[str], fields: dict[str, str]) -> None:
    command = command.strip("_0123456789") or "get_job"
    command = "".join(c for c in command if not c.isdigit())
    (line,) = Lines().feed(request(command, *words, **fields))
    found = parse_request(line)
    assert found is not None
    assert (found.command, found.words, found.fields) == (command, tuple(words), fields)


def test_a_request_as_people_write_it() -> None:
    assert parse_request('  pause   src:3 why="new \\"disk\\""  ') == Request(
        "pause", ("src:3",), {"why": 'new "disk"'}, 'src:3 why="new \\"disk\\""'
    )
    assert parse_request("   ") is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("GET / HTTP/1.1", "no command"),
        ('pause why="new', "can't read"),
        ('pause why="\\x"', "no JSON string"),
        ("report move=1 move=2", "twice"),
    ],
)
def test_requests_that_are_none(line: str, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        parse_request(line)


@pytest.mark.parametrize("text", ["", "x", "-", "1.5", "0x10", "9" * 19, "1_000", "²"])
def test_no_number(text: str) -> None:
    with pytest.raises(BadRequest, match="whole number"):
        Request("report", (), {"move": text}).number("move")


@given(
    st.lists(
        st.one_of(
            st.builds(Reply, texts.map(str.strip)),
            st.builds(lambda lines: Reply("", tuple(lines)), st.lists(texts, min_size=1)),
            st.builds(lambda text: Reply(text, (), "refused"), texts),
            st.builds(Event, names, texts),
        ),
        max_size=6,
    ),
    st.lists(st.integers(0, 500), max_size=8),
)
def test_replies_come_through(said: list[Reply | Event], cuts: list[int]) -> None:
    data = b"Ready: now\n" + b"".join(map(bytes, said))
    reader = ReplyReader()
    heard = [one for piece in pieces(data, cuts) for one in reader.feed(piece)]
    assert heard == said


def test_a_reply_stays_on_its_lines() -> None:
    reply = bytes(Reply("disk\nfull\x1b[2J", ("a\r\nEND",), "refused"))
    assert reply.count(b"\n") == 2
    reader = ReplyReader()
    reader.feed(b"Ready\n")
    (heard,) = reader.feed(reply)
    assert isinstance(heard, Reply)
    assert heard.error == "refused"


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH\n", b"ERR busy too many\n", b"Ready\nWHAT\n"])
def test_no_coordinator(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        ReplyReader().feed(said)


@given(st.dictionaries(names.filter(lambda name: not name.endswith("_")), texts))
def test_named_values_are_read_again(values: dict[str, str]) -> None:
    assert tokens(named(**values)) == ((), values)


def test_what_is_not_known_is_a_dash() -> None:
    assert shown(None) == "-"
    assert shown("") == '""'
