"""Values and flags: what goes in comes out, and what others wrote is read or refused."""

from __future__ import annotations

import gzip
import pickle
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.memcached import serializer
from lj_services.memcached.errors import BadValue, UnreadableValue
from lj_services.memcached.serializer import Compression, CompressionMethod, JsonSerializer

pytestmark = pytest.mark.unit

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=10,
)


@given(json_values | st.binary())
def test_values_come_back_as_they_were(value: Any) -> None:
    back = JsonSerializer().loads(*JsonSerializer().dumps(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), bytes, "\ud800"])
def test_what_json_has_no_form_for_is_the_callers_mistake(value: Any) -> None:
    with pytest.raises(BadValue, match="cache"):
        JsonSerializer().dumps(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(BadValue):
        JsonSerializer().dumps(loop)


@pytest.mark.parametrize(("data", "flags"), [(b"12", 2), (b"12", 4), (b"12", 64)])
def test_integers_of_other_clients_are_read(data: bytes, flags: int) -> None:
    assert JsonSerializer().loads(data, flags) == 12


@pytest.mark.parametrize(
    ("data", "flags"),
    [
        (pickle.dumps(1), 1),
        (b"{", 64),
        (b"[" * 100_000, 64),
        (b"\xff", 16),
        (b"x", 2),
        (b"x", 1024),
    ],
)
def test_what_cannot_be_read(data: bytes, flags: int) -> None:
    with pytest.raises(UnreadableValue):
        JsonSerializer().loads(data, flags)


@pytest.mark.parametrize("method", ["zlib", "gzip"])
@given(data=st.binary(max_size=50), times=st.integers(0, 100))
def test_zipped_values_come_back(method: CompressionMethod, data: bytes, times: int) -> None:
    compression = Compression(64, method)
    packed, flags = compression.pack(data * times, 16)
    assert len(packed) <= len(data * times)
    assert Compression(0).unpack(packed, flags) == (data * times, 16)


def test_only_what_is_long_and_shrinks_is_zipped() -> None:
    compression = Compression(100)
    noise = zlib.compress(bytes(range(256)) * 3)[:99] + bytes(range(200))
    assert compression.pack(b"a" * 99, 0) == (b"a" * 99, 0)
    assert compression.pack(noise, 0) == (noise, 0)
    assert compression.pack(b"a" * 100, 0)[1] == 8
    assert Compression(0).pack(b"a" * 10_000, 0)[1] == 0


def test_the_flag_for_gzip_and_for_integers_is_told_apart_by_the_value() -> None:
    compression = Compression(0)
    assert compression.unpack(gzip.compress(b"hello"), 2) == (b"hello", 0)
    assert compression.unpack(b"31139", 2) == (b"31139", 2)


@pytest.mark.parametrize(
    ("data", "flags"),
    [(b"nonsense", 8), (zlib.compress(b"a" * 100)[:-3], 8), (b"\x1f\x8bnonsense", 2), (b"", 8)],
)
def test_a_damaged_zipped_value_cannot_be_read(data: bytes, flags: int) -> None:
    with pytest.raises(UnreadableValue):
        Compression(0).unpack(data, flags)


def test_a_small_value_cannot_unzip_into_a_huge_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serializer, "MAX_UNZIPPED", 1000)
    assert Compression(0).unpack(zlib.compress(b"a" * 1000), 8)[0] == b"a" * 1000
    with pytest.raises(UnreadableValue, match="longer"):
        Compression(0).unpack(zlib.compress(b"a" * 1001), 8)
