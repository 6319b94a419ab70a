"""Our rings place keys where Perl's Cache::Memcached and libmemcached place them."""

from __future__ import annotations

import ctypes
import random
import subprocess
from collections.abc import Iterator, Sequence

import pylibmc
import pytest

from lj_services.memcached.client import Client
from lj_services.memcached.rings import Crc32Ring, KetamaRing, Ring, Server
from tests.support.memcached import Start
from tests.support.process import free_port

pytestmark = pytest.mark.interop

KEYS = [f"key:{number}" for number in range(10_000)]

WEIGHTS = (2, 10, 5, 5, 3)
"""Unequal, and such that double precision would give two servers four points too many."""

PERL_SET = """
use strict; use warnings; use Cache::Memcached;
my @servers = map { my ($at, $weight) = split /=/; [$at, $weight] } @ARGV;
my $cache = Cache::Memcached->new({servers => \\@servers, connect_timeout => 2});
while (my $line = <STDIN>) {
    chomp $line;
    my ($pin, $key) = split / /, $line;
    $cache->set($pin eq "-" ? $key : [$pin, $key], "v") or die "$key was not stored\\n";
}
"""


@pytest.fixture
def servers(real_memcached: Start) -> list[Server]:
    return [
        Server("127.0.0.1", real_memcached("-m 64", f"-b {1024 + index}").port, w)
        for index, w in enumerate(WEIGHTS)
    ]


def found_on(server: Server, keys: Sequence[str]) -> set[str]:
    with Client([server], raise_faults=True, timeout_s=20) as client:
        return set(client.get_many(keys))


def assert_placed(ring: Ring, servers: Sequence[Server], dead: frozenset[int]) -> None:
    expected: dict[int, set[str]] = {index: set() for index in range(len(servers))}
    for key in KEYS:
        index = ring.locate(key.encode(), None, dead)
        assert index is not None
        expected[index].add(key)
    for index, server in enumerate(servers):
        if index not in dead:
            assert found_on(server, KEYS) == expected[index]


def set_by_perl(servers: Sequence[Server], lines: Sequence[str]) -> None:
    words = [f"{server}={server.weight}" for server in servers]
    subprocess.run(
        ["perl", "-e", PERL_SET, *words], input="\n".join(lines), text=True, check=True, timeout=120
    )


def test_crc32_is_where_perl_puts_10000_keys(servers: list[Server]) -> None:
    set_by_perl(servers, [f"- {key}" for key in KEYS])
    assert_placed(Crc32Ring(servers), servers, frozenset())


def test_crc32_is_where_perl_puts_10000_keys_while_a_server_is_dead(servers: list[Server]) -> None:
    with_dead = [*servers[:4], Server("127.0.0.1", free_port(), 7)]
    set_by_perl(with_dead, [f"- {key}" for key in KEYS])
    assert_placed(Crc32Ring(with_dead), with_dead, frozenset({4}))


def test_pinned_keys_are_where_perl_puts_them(servers: list[Server]) -> None:
    set_by_perl(servers, [f"{userid} log2:{userid}" for userid in range(1000)])
    with Client(servers, raise_faults=True) as client:
        assert len(client.get_many([(userid, f"log2:{userid}") for userid in range(1000)])) == 1000


def test_ketama_is_where_pylibmc_puts_10000_keys(servers: list[Server]) -> None:
    theirs = pylibmc.Client(
        [f"127.0.0.1:{server.port}:{server.weight}" for server in servers],
        behaviors={"ketama_weighted": True},
    )
    assert theirs.set_multi(dict.fromkeys(KEYS, "v")) == []
    assert_placed(KetamaRing(servers), servers, frozenset())


class Libmemcached:
    """libmemcached's own placement, asked without a server."""

    KETAMA_WEIGHTED = 16  # MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED in its configure.h

    def __init__(self, servers: Sequence[Server]) -> None:
        self.library = library = ctypes.CDLL("libmemcached.so.11")
        library.memcached_create.restype = ctypes.c_void_p
        library.memcached_create.argtypes = [ctypes.c_void_p]
        library.memcached_free.argtypes = [ctypes.c_void_p]
        library.memcached_behavior_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64]
        library.memcached_behavior_get.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.memcached_behavior_get.restype = ctypes.c_uint64
        library.memcached_server_add_with_weight.argtypes = [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_uint16,
            ctypes.c_uint32,
        ]
        library.memcached_generate_hash.argtypes = [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
        ]
        library.memcached_generate_hash.restype = ctypes.c_uint32
        self.handle = library.memcached_create(None)
        assert library.memcached_behavior_set(self.handle, self.KETAMA_WEIGHTED, 1) == 0
        assert library.memcached_behavior_get(self.handle, self.KETAMA_WEIGHTED) == 1
        for server in servers:
            assert not library.memcached_server_add_with_weight(
                self.handle, server.host.encode(), server.port, server.weight
            )

    def locate(self, key: bytes) -> int:
        index: int = self.library.memcached_generate_hash(self.handle, key, len(key))
        return index

    def close(self) -> None:
        self.library.memcached_free(self.handle)


def racks() -> Iterator[list[Server]]:
    """Lists of servers with many weights; some on the default port."""
    for weights in ([1] * 25, [13, 11, 16, 4, 6], [14, 1, 14, 13, 8]):  # roundings matter here
        yield [Server("10.0.0.1", 11211 + at, weight) for at, weight in enumerate(weights)]
    draw = random.Random(2007)
    for _ in range(60):
        count = draw.randint(1, 12)
        ports = [11211, *draw.sample(range(1025, 60000), count - 1)]
        weights = [draw.choice([1, 2, 3, 7, draw.randint(1, 2000)]) for _ in ports]
        yield [
            Server(draw.choice(["127.0.0.1", "cache", "10.1.2.3"]), port, weight)
            for port, weight in zip(ports, weights, strict=True)
        ]


def test_ketama_is_where_libmemcached_puts_keys_for_many_racks_and_weights() -> None:
    keys = [key.encode() for key in KEYS[:500]]
    for servers in racks():
        theirs, ours = Libmemcached(servers), KetamaRing(servers)
        assert [ours.locate(key) for key in keys] == [theirs.locate(key) for key in keys]
        theirs.close()


def test_ketama_without_a_dead_server_is_libmemcacheds_ring_of_the_living() -> None:
    keys = [key.encode() for key in KEYS[:500]]
    for servers in racks():
        if len(servers) > 1:
            theirs, ours = Libmemcached(servers[1:]), KetamaRing(servers)
            assert [ours.locate(key, None, {0}) for key in keys] == [
                theirs.locate(key) + 1 for key in keys
            ]
            theirs.close()
