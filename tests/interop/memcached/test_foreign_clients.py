"""Clients that others wrote, unchanged, against the embedded server."""

from __future__ import annotations

import re
import subprocess
import time

import pymemcache
import pytest
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError

from tests.support.memcached import MemcachedServer, Start

pytestmark = pytest.mark.interop


@pytest.fixture
def server(our_memcached: Start) -> MemcachedServer:
    return our_memcached()


@pytest.fixture
def client(server: MemcachedServer) -> pymemcache.Client:
    return pymemcache.Client(("127.0.0.1", server.port), timeout=10, connect_timeout=10)


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_memccapable(our_memcached: Start) -> None:
    server = our_memcached(fresh=True)
    output = run("memccapable", "-h", "127.0.0.1", "-p", str(server.port), "-a")
    assert "All tests passed" in output
    assert len(re.findall(r"^ascii .*\[pass\]$", output, re.MULTILINE)) == 27


def test_memcslap(server: MemcachedServer) -> None:
    for kind in ("set", "get", "mget"):
        run("memcslap", "-s", server.address, "-t", kind, "-c", "4", "-e", "500")
    assert int(server.stats()["curr_items"]) > 0


def test_memcaslap_verifies_what_it_reads(server: MemcachedServer) -> None:
    words = ["-T", "1", "-c", "16", "-x", "20000", "-v", "0.5", "-X", "300"]
    output = run("memcaslap", "-s", server.address, *words)
    figures = dict(re.findall(r"^(\w+): (\d+)$", output, re.MULTILINE))
    assert int(figures["cmd_get"]) + int(figures["cmd_set"]) >= 20_000
    assert figures["get_misses"] == "0"
    assert figures.get("verify_failed", "0") == "0"
    assert figures.get("verify_misses", "0") == "0"


def test_memcstat_and_memcping(server: MemcachedServer) -> None:
    run("memcping", "--servers", server.address)
    assert re.search(r"limit_maxbytes", run("memcstat", "--servers", server.address))


def test_pymemcache_stores_and_fetches(client: pymemcache.Client) -> None:
    assert client.set("key", b"value", noreply=False)
    assert client.get("key") == b"value"
    assert client.add("key", b"other", noreply=False) is False
    assert client.replace("key", b"new", noreply=False)
    assert client.append("key", b">", noreply=False)
    assert client.prepend("key", b"<", noreply=False)
    assert client.get("key") == b"<new>"
    value, unique = client.gets("key")
    assert value == b"<new>"
    assert client.cas("key", b"fine", unique, noreply=False) is True
    assert client.cas("key", b"late", unique, noreply=False) is False
    assert client.cas("none", b"x", b"1", noreply=False) is None
    assert client.delete("key", noreply=False)
    assert client.get("key") is None


def test_pymemcache_fetches_many(client: pymemcache.Client) -> None:
    values = {f"key{number}": b"%d" % number * 50 for number in range(500)}
    assert client.set_many(values, noreply=True) == []
    assert client.get_many(list(values)) == values
    assert client.gets_many(["key1", "none"]).keys() == {"key1"}


def test_pymemcache_counts_and_touches(client: pymemcache.Client) -> None:
    client.set("n", b"10")
    assert client.incr("n", 5) == 15
    assert client.decr("n", 20) == 0
    assert client.incr("none", 1) is None
    client.set("text", b"abc", noreply=False)
    with pytest.raises(MemcacheClientError, match="non-numeric"):
        client.incr("text", 1)
    assert client.touch("n", 100, noreply=False)
    assert not client.touch("none", 100, noreply=False)
    assert client.get("n") == b"0 "
    assert client.version().startswith(b"1.6.")
    assert client.stats()[b"cmd_get"] >= 1
    assert client.flush_all(noreply=False)
    assert client.get("n") is None


def test_pymemcache_is_told_of_values_that_are_too_large(client: pymemcache.Client) -> None:
    client.set("big", b"old")
    with pytest.raises(MemcacheServerError, match="too large"):
        client.set("big", b"x" * (1 << 20), noreply=False)
    assert client.get("big") is None
    assert client.set("big", b"x" * ((1 << 20) - 100), noreply=False)
    assert len(client.get("big")) == (1 << 20) - 100


def test_items_expire_by_the_clock(client: pymemcache.Client) -> None:
    started = time.monotonic()
    client.set("short", b"x", expire=1)
    client.set("long", b"y", expire=100)
    client.set("absolute", b"z", expire=int(time.time()) + 1)
    while client.get("short") is not None or client.get("absolute") is not None:
        assert time.monotonic() - started < 5
        time.sleep(0.02)
    assert time.monotonic() - started > 0.5
    assert client.get("long") == b"y"
