"""What travels between programs and gofers."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.gearman.gofer.errors import (
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
)
from lj_services.gearman.gofer.kinds import BINARY, NUMBER, STRING, kinds_of
from lj_services.gearman.gofer.messages import (
    FrameReader,
    FrameWriter,
    Request,
    dumps,
    error_frame,
    loads,
)

pytestmark = pytest.mark.unit

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.decimals(allow_nan=False),
    st.datetimes(),
    st.dates(),
    st.times(),
    st.integers(-(10**9), 10**9).map(lambda seconds: dt.timedelta(seconds=seconds)),
)


@given(st.lists(VALUES))
def test_values_arrive_as_they_were(values: list[Any]) -> None:
    got = loads(dumps(values))
    assert got == values
    assert list(map(type, got)) == list(map(type, values))


def test_what_sql_has_no_value_for_cannot_travel() -> None:
    with pytest.raises(InterfaceError, match="type object"):
        dumps([object()])


@given(st.lists(st.lists(VALUES, min_size=2, max_size=2), max_size=40), st.integers(1, 400))
def test_an_answer_arrives_whole_in_however_many_pieces(rows: list[Any], size: int) -> None:
    frames: list[bytes] = []
    writer = FrameWriter(frames.append, size, 1 << 30)
    writer.line({"columns": [["a", "STRING"], ["b", None]]})
    for row in rows:
        writer.line(row)
    writer.line({"end": [len(rows), None]})
    writer.line({"end": [3, 7]})
    frames.append(writer.last())
    reader = FrameReader()
    for frame in frames:
        reader.feed(frame)
    first, second = reader.results
    assert first.rows == [tuple(row) for row in rows]
    assert (first.rowcount, second.rowcount, second.lastrowid) == (len(rows), 3, 7)
    assert second.columns is None


def test_an_answer_of_one_piece_has_a_limit() -> None:
    writer = FrameWriter(None, 10, 100)
    for _ in range(7):
        writer.line(["some text"])
    with pytest.raises(OperationalError, match="max_answer"):
        writer.line(["some text"])


def test_a_piece_with_the_number_0_starts_from_the_beginning() -> None:
    reader = FrameReader()
    reader.feed(b'{"n":0}\n{"columns":[["a",null]]}\n[1]')
    reader.feed(b'{"n":1}\n[2]')
    reader.feed(b'{"n":0}\n{"columns":[["a",null]]}\n[1]\n{"end":[1,null]}')
    assert [result.rows for result in reader.results] == [[(1,)]]
    assert reader.restarts == 1


@pytest.mark.parametrize(
    "frame",
    [b"", b"{}", b'{"n":1}', b'{"n":0}\n[1]', b'{"n":0}\n{"columns":7}', b'{"n":0}\n{', b"[]"],
)
def test_answers_that_make_no_sense(frame: bytes) -> None:
    with pytest.raises(InternalError, match="no sense"):
        FrameReader().feed(frame)


def test_errors_are_known_by_their_names() -> None:
    reader = FrameReader()
    reader.feed(error_frame(IntegrityError("twice")))
    assert isinstance(reader.error, IntegrityError)
    assert str(reader.error) == "twice"
    other = FrameReader()
    other.feed(b'{"n":0}\n{"error":["SystemExit","0"]}')
    assert type(other.error) is InternalError


def test_a_request_arrives_as_it_was() -> None:
    request = Request(
        "write", [("UPDATE t SET a = ?", [[b"\0", Decimal("1.5")]])], call="c", until=2.5
    )
    assert Request.parse(request.pack()) == request
    assert Request.parse(Request("read", [("SELECT 1", [[]])]).pack()).until == 0.0


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{}", b"null", b'{"do":"read","statements":[[1]]}', b"\xff"]
)
def test_what_is_no_request(payload: bytes) -> None:
    with pytest.raises(InterfaceError, match="no request"):
        Request.parse(payload)


def test_kinds_of_columns() -> None:
    assert kinds_of([("a", None), ("b", None)], [(None, "x"), (b"", "y")]) == [
        ("a", "BINARY"),
        ("b", "STRING"),
    ]
    assert kinds_of([("a", None)], []) == [("a", None)]
    blob, text = (("a", 252, *[None] * 5, 0, charset) for charset in (63, 45))
    assert [kind for _, kind in kinds_of([blob, text], [])] == [BINARY, STRING]
    assert STRING != NUMBER
    assert NUMBER != "STRING"
