"""Every method of the client, against the real memcached and the kit's own."""

from __future__ import annotations

import time

import pytest

from lj_services.memcached.client import CasResult, Client
from lj_services.memcached.errors import CommandRefused
from lj_services.memcached.rings import Server
from tests.support.memcached import Start
from tests.support.process import wait_for

pytestmark = pytest.mark.interop


@pytest.fixture(params=["real", "ours"])
def client(request: pytest.FixtureRequest) -> Client:
    """A client of two servers of one kind."""
    if request.param == "real":
        start: Start = request.getfixturevalue("real_memcached")
        ports = [start("-m 64").port, start("-m 65").port]
    else:
        start = request.getfixturevalue("our_memcached")
        ports = [start("memory_limit=64m").port, start("memory_limit=65m").port]
    return Client([Server("127.0.0.1", port) for port in ports], raise_faults=True, timeout_s=10)


def test_set_get_delete(client: Client) -> None:
    assert client.get("k") is None
    assert client.get("k", 5) == 5
    assert client.set("k", {"a": [1, "é", None]})
    assert client.get("k") == {"a": [1, "é", None]}
    assert client.get(b"k") == {"a": [1, "é", None]}
    assert client.delete("k")
    assert not client.delete("k")
    assert client.get("k") is None


def test_many(client: Client) -> None:
    keys = [(number, f"k{number}") for number in range(300)]
    assert client.set_many({key: key[0] for key in keys}) == []
    assert client.get_many([*keys, "none", keys[0]]) == {key: key[0] for key in keys}
    assert client.get_many([]) == {}
    assert client.delete_many([*keys[:100], "none"]) == 100
    assert len(client.get_many(keys)) == 200


def test_a_multi_get_of_more_keys_than_fit_a_line(client: Client) -> None:
    values = {f"{number:0240d}": number for number in range(1000)}
    assert client.set_many(values) == []
    assert client.get_many(values) == values


def test_add_and_replace(client: Client) -> None:
    assert not client.replace("k", 1)
    assert client.add("k", 2)
    assert not client.add("k", 3)
    assert client.replace("k", 4)
    assert client.get("k") == 4


def test_append_and_prepend(client: Client) -> None:
    assert not client.append("k", "x")
    client.set("k", "b")
    assert client.append("k", "cé")
    assert client.prepend("k", b"a")
    assert client.get("k") == "abcé"


def test_cas(client: Client) -> None:
    assert client.gets("k") is None
    assert client.cas("k", 1, 1) is CasResult.NOT_FOUND
    client.set("k", 1)
    got = client.gets("k")
    assert got is not None
    value, number = got
    assert value == 1
    assert client.cas("k", 2, number) is CasResult.STORED
    assert client.cas("k", 3, number) is CasResult.EXISTS
    assert client.get("k") == 2
    assert bool(CasResult.STORED)
    assert not bool(CasResult.EXISTS)


def test_incr_and_decr(client: Client) -> None:
    assert client.incr("n") is None
    client.set("n", 9)
    assert client.incr("n") == 10
    assert client.get("n") == 10
    assert client.decr("n", 3) == 7
    assert client.get("n") == 7
    assert client.decr("n", 100) == 0
    assert client.incr("n", 2**64 - 1) == 2**64 - 1
    assert client.incr("n", 2) == 1
    client.set("n", "text")
    with pytest.raises(CommandRefused, match="non-numeric"):
        client.incr("n")
    assert client.get("n") == "text"


def test_expiry(client: Client) -> None:
    client.set("gone", 1, -1)
    assert client.get("gone") is None
    client.set("year", 1, 365 * 24 * 3600)
    assert client.get("year") == 1
    client.set("soon", 1, 1)
    client.set("touched", 1, 1)
    client.set("gat", 1, 1)
    assert client.touch("touched", 1000)
    assert client.get_and_touch("gat", 1000) == 1
    assert not client.touch("none", 1000)
    assert client.get_and_touch("none", 1000, "default") == "default"
    wait_for(lambda: client.get("soon") is None, "the value to expire")
    assert client.get("touched") == 1
    assert client.get("gat") == 1
    assert client.touch("gat", -1)
    assert client.get("gat") is None


def test_a_value_over_the_servers_limit_is_refused_and_the_old_one_is_gone(client: Client) -> None:
    plain = Client(client.servers, compress_threshold=0, timeout_s=10)
    plain.set("k", "old")
    assert plain.set("k", b"x" * 2_000_000) is False
    assert plain.get("k") is None
    assert plain.set("k", "new")
    assert plain.get("k") == "new"
    with pytest.raises(CommandRefused, match="too large"):
        Client(client.servers, compress_threshold=0, raise_faults=True).set("k", b"x" * 2_000_000)


def test_zipped_values(client: Client) -> None:
    text = "repeat " * 400_000
    assert client.set("k", text)
    assert client.get("k") == text


def test_stats_and_versions(client: Client) -> None:
    def stored() -> int:
        return sum(int(of_one["total_items"]) for of_one in client.stats().values())

    before = stored()
    client.set("k", 1)
    assert stored() == before + 1
    stats = client.stats()
    assert list(stats) == [str(server) for server in client.servers]
    assert all(of_one["pointer_size"] for of_one in stats.values())
    assert any("items:" in name for of_one in client.stats("items").values() for name in of_one)
    assert client.versions() == {address: of_one["version"] for address, of_one in stats.items()}


def test_flush(client: Client) -> None:
    values = {f"k{number}": number for number in range(20)}
    client.set_many(values)
    assert client.flush_all()
    assert client.get_many(values) == {}
    client.set_many(values)
    started = time.monotonic()
    assert client.flush_all(1)
    wait_for(lambda: client.get_many(values) == {}, "the delayed flush")
    assert time.monotonic() - started < 10
