"""Values that one language writes are read by the others."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pylibmc
import pytest
from pymemcache.client.base import Client as Pymemcache
from pymemcache.serde import CompressedSerde, PickleSerde

from lj_services.memcached.client import Client
from lj_services.memcached.errors import UnreadableValue
from lj_services.memcached.rings import Server
from tests.support.memcached import MemcachedServer, Start

pytestmark = pytest.mark.interop

LONG = "long text, " * 1000

PERL_GET = """
use strict; use warnings; use Cache::Memcached; use JSON::PP;
my $cache = Cache::Memcached->new({servers => [$ARGV[0]]});
print encode_json($cache->get_multi(@ARGV[1 .. $#ARGV]));
"""

PERL_SET = """
use strict; use warnings; use Cache::Memcached;
my $cache = Cache::Memcached->new({servers => [$ARGV[0]], compress_threshold => 1000});
$cache->set("text", "hello") or die;
$cache->set("number", 41) or die;
$cache->set("long", "long text, " x 1000) or die;
$cache->set("frozen", [1, 2]) or die;
"""


@pytest.fixture
def server(real_memcached: Start) -> MemcachedServer:
    return real_memcached("-m 64")


def ours(server: MemcachedServer, **settings: Any) -> Client:
    return Client([Server("127.0.0.1", server.port)], raise_faults=True, **settings)


def pymemcache(server: MemcachedServer) -> Pymemcache:
    return Pymemcache(
        ("127.0.0.1", server.port),
        serde=CompressedSerde(serde=PickleSerde(), min_compress_len=1000),
    )


def libmemcached(server: MemcachedServer) -> Any:
    return pylibmc.Client([server.address])


def perl(program: str, *words: str) -> str:
    return subprocess.run(
        ["perl", "-e", program, *words], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def write(client: Client) -> None:
    client.set_many(
        {
            "text": "hello é",
            "bytes": b"raw",
            "number": 41,
            "record": {"userid": 7, "tags": ["a", "b"]},
            "long": LONG,
        }
    )


def test_pymemcache_reads_ours(server: MemcachedServer) -> None:
    write(ours(server))
    theirs = pymemcache(server)
    assert theirs.get("text") == "hello é"
    assert theirs.get("bytes") == b"raw"
    assert theirs.get("long") == LONG
    assert json.loads(theirs.get("record")) == {"userid": 7, "tags": ["a", "b"]}
    assert theirs.incr("number", 1) == 42


def test_pylibmc_reads_ours(server: MemcachedServer) -> None:
    write(ours(server))
    theirs = libmemcached(server)
    assert theirs.get("text") == "hello é"
    assert theirs.get("bytes") == b"raw"
    assert theirs.get("long") == LONG
    assert json.loads(theirs.get("record")) == {"userid": 7, "tags": ["a", "b"]}
    assert theirs.incr("number") == 42


def test_perl_reads_ours(server: MemcachedServer) -> None:
    write(ours(server, compress_method="gzip"))
    read = json.loads(perl(PERL_GET, server.address, "text", "bytes", "number", "long", "record"))
    # JSON::PP takes Perl's bytes for Latin-1 characters.
    assert read["text"].encode("latin-1").decode() == "hello é"
    assert read["bytes"] == "raw"
    assert read["number"] == "41"
    assert read["long"] == LONG
    assert json.loads(read["record"]) == {"userid": 7, "tags": ["a", "b"]}


def test_ours_reads_pymemcache(server: MemcachedServer) -> None:
    theirs = pymemcache(server)
    for key, value in {"text": "hello é", "bytes": b"raw", "number": 41, "long": LONG}.items():
        theirs.set(key, value, noreply=False)
    client = ours(server)
    assert client.get("text") == "hello é"
    assert client.get("bytes") == b"raw"
    assert client.get("number") == 41
    assert client.get("long") == LONG
    theirs.set("pickled", {1: 2}, noreply=False)
    with pytest.raises(UnreadableValue, match="pickle"):
        client.get("pickled")


def test_ours_reads_pylibmc(server: MemcachedServer) -> None:
    theirs = libmemcached(server)
    theirs.set("text", "hello é")
    theirs.set("number", 41)
    theirs.set("long", LONG, min_compress_len=1000)
    client = ours(server)
    assert client.get("text") == "hello é"
    assert client.get("number") == 41
    assert client.get("long") == LONG


def test_ours_reads_perl(server: MemcachedServer) -> None:
    perl(PERL_SET, server.address)
    client = ours(server)
    assert client.get("text") == b"hello"
    assert client.get("number") == b"41"
    assert client.incr("number") == 42
    assert client.get("long") == LONG.encode()
    with pytest.raises(UnreadableValue, match="Storable"):
        client.get("frozen")


def test_a_namespace_is_the_same_in_perl(server: MemcachedServer) -> None:
    ours(server, namespace="lj:").set((7, "a"), "x")
    program = PERL_GET.replace("servers =>", "namespace => 'lj:', servers =>")
    assert json.loads(perl(program, server.address, "a")) == {"a": "x"}
    assert ours(server).get("lj:a") == "x"
