"""Placement of keys: stable, in proportion to the weights, and moved as little as can be."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.memcached.rings import Crc32Ring, KetamaRing, Ring, RingName, Server, make_ring

pytestmark = pytest.mark.unit

KEYS = [b"key:%d" % number for number in range(10_000)]
weights = st.lists(st.integers(1, 20), min_size=1, max_size=8)


def servers(*weight: int) -> list[Server]:
    return [Server("10.0.0.1", 11300 + number, each) for number, each in enumerate(weight)]


def shares(ring: Ring) -> list[float]:
    counts = Counter(ring.locate(key) for key in KEYS)
    return [counts[index] / len(KEYS) for index in range(len(ring.servers))]


def test_crc32_places_known_keys() -> None:
    # (crc32 >> 16) & 0x7fff of "abc" is 0x3524 & 0x7fff = 13604; of "123456789" 0x4bf4 = 19444
    ring = Crc32Ring(servers(1, 1, 1))
    assert ring.locate(b"abc") == 13604 % 3
    assert ring.locate(b"123456789") == 19444 % 3


def test_crc32_counts_a_server_as_often_as_its_weight() -> None:
    ring = Crc32Ring(servers(3, 1, 2))
    assert [ring.locate(b"x", pin) for pin in range(7)] == [0, 0, 0, 1, 2, 2, 0]


def test_crc32_adds_the_hash_of_try_and_key_when_a_server_is_dead() -> None:
    ring = Crc32Ring(servers(1, 1, 1))
    # The hashes of "1k" and "2k" are 24036 and 30409.
    assert 24036 % 3 == 0
    assert (24036 + 30409) % 3 == 1
    assert ring.locate(b"k", 0) == 0
    assert ring.locate(b"k", 0, {0}) == 1


@pytest.mark.parametrize("name", ["crc32", "ketama"])
@given(weights, st.binary(min_size=1, max_size=40), st.none() | st.integers(0, 2**32))
def test_same_key_same_server_in_every_process(
    name: RingName, weight: list[int], key: bytes, pin: int | None
) -> None:
    once = make_ring(name, servers(*weight))
    again = make_ring(name, servers(*weight))
    assert once.locate(key, pin) == again.locate(key, pin)


@pytest.mark.parametrize("name", ["crc32", "ketama"])
@given(weights, st.binary(min_size=1, max_size=40), st.data())
def test_a_dead_server_gets_no_keys(
    name: RingName, weight: list[int], key: bytes, data: st.DataObject
) -> None:
    ring = make_ring(name, servers(*weight))
    dead = data.draw(st.frozensets(st.integers(0, len(weight) - 1)))
    index = ring.locate(key, None, dead)
    assert index is None or index not in dead
    if len(dead) == len(weight):
        assert index is None
    elif name == "ketama":
        assert index is not None


@pytest.mark.parametrize("name", ["crc32", "ketama"])
def test_shares_follow_the_weights(name: RingName) -> None:
    ring = make_ring(name, servers(1, 2, 3, 4))
    for share, weight in zip(shares(ring), (1, 2, 3, 4), strict=True):
        assert share == pytest.approx(weight / 10, abs=0.04)


def test_ketama_moves_only_what_the_new_server_takes() -> None:
    before = KetamaRing(servers(1, 1, 1, 1))
    after = KetamaRing(servers(1, 1, 1, 1, 1))
    moved = [key for key in KEYS if before.locate(key) != after.locate(key)]
    assert {after.locate(key) for key in moved} == {4}
    assert len(moved) / len(KEYS) == pytest.approx(1 / 5, abs=0.05)


def test_ketama_moves_only_the_keys_of_a_dead_server() -> None:
    ring = KetamaRing(servers(1, 1, 1, 1))
    for key in KEYS:
        home = ring.locate(key)
        assert home == 2 or ring.locate(key, None, {2}) == home


def test_a_pin_places_all_keys_of_a_user_together() -> None:
    for ring in (Crc32Ring(servers(2, 3, 1, 1)), KetamaRing(servers(2, 3, 1, 1))):
        assert len({ring.locate(key, 4242) for key in KEYS[:200]}) == 1
        assert len({ring.locate(b"k", userid) for userid in range(200)}) == 4


def test_a_pin_on_ketama_is_placed_as_its_digits() -> None:
    ring = KetamaRing(servers(1, 2, 3))
    assert [ring.locate(b"x", pin) for pin in range(50)] == [
        ring.locate(b"%d" % pin) for pin in range(50)
    ]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("cache1:11211", "cache1", 11211), ("[::1]:11300", "::1", 11300)],
)
def test_servers_are_read_and_shown_alike(text: str, host: str, port: int) -> None:
    server = Server.parse(text)
    assert (server.host, server.port) == (host, port)
    assert str(server) == text


def test_what_can_be_no_ring() -> None:
    with pytest.raises(ValueError, match="at least one"):
        make_ring("crc32", [])
    with pytest.raises(ValueError, match="twice"):
        make_ring("ketama", [Server("a"), Server("a", weight=2)])
    with pytest.raises(ValueError, match="weight"):
        Server("a", weight=0)
