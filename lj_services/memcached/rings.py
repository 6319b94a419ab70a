"""Where a key lies: the two rings that programs in other languages use too.

Both give the same server for the same key, the same list of servers and the same
set of dead ones, in every program and every process; that is all a ring is.

**crc32**, the classic ring of Perl's Cache::Memcached (python-memcached and PHP's
memcache agree while all servers live): every server stands as often in a list of
buckets as it has weight, and the key's 15 bits of CRC-32 pick a bucket.  Where
that server is dead, the hash of "<try><key>" is added, for up to 20 tries; then
the key has no server.  A new server moves nearly all keys.

**ketama**, weighted as libmemcached does it (``MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED``,
pylibmc's ``ketama_weighted``): every server puts about 160 points, scaled by its
weight, on a circle of 2**32; a key belongs to the first point at or after its own.
A new server takes its share of the keys and moves no others.  A dead one's points
are taken out, and since the number of points depends on the sum of weights, the
circle is made anew from the living, as libmemcached does with ``auto_eject``.

A key may be *pinned*: ``(42, "log2:42")`` is placed by the number 42 alone, so that
all things of a user lie together.  On the crc32 ring the number is the hash, as
LiveJournal has it; on the ketama ring its decimal digits are hashed in the key's
place, as libmemcached's ``*_by_key`` calls do with a group key.

Source: Cache::Memcached 1.30 and libmemcached 1.0.16/1.1.4, both observed from
outside (tests/interop/memcached compares 10,000 keys each).
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import floor
from typing import Literal, Protocol
from zlib import crc32

from lj_services.daemon import HostPort

RingName = Literal["crc32", "ketama"]

DEFAULT_PORT = 11211
MAX_TRIES = 20
POINTS_PER_SERVER = 160
_MAX_REMEMBERED = 64
_NONE_DEAD: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Server:
    """A cache server: where it listens, and its share of the keys relative to the others."""

    host: str
    port: int = DEFAULT_PORT
    weight: int = 1

    def __post_init__(self) -> None:
        if self.weight < 1:
            raise ValueError(f"{self}: the weight is {self.weight}; it must be 1 or more")

    @classmethod
    def parse(cls, address: str, weight: int = 1) -> Server:
        """Read ``10.0.0.5:11211`` or ``[::1]:11211``.

        Raises:
            ValueError: it is no such address.
        """
        where = HostPort.parse(address)
        return cls(where.host, where.port, weight)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Ring(Protocol):
    """Places keys on servers; safe for use by many threads at once."""

    servers: tuple[Server, ...]

    def locate(
        self, key: bytes, pin: int | None = None, dead: Collection[int] = _NONE_DEAD
    ) -> int | None:
        """Which server has a key.

        Args:
            key: the key without a namespace (namespaces take no part in the placement).
            pin: a number that places the key instead of the key itself.
            dead: indices of servers that are not to be used.

        Returns:
            Index into `servers`; None where there is no server for the key.
        """
        ...


def make_ring(name: RingName, servers: Sequence[Server]) -> Ring:
    """The ring called `name` over `servers`, whose order matters.

    Raises:
        ValueError: there are no servers, or one is there twice.
    """
    addresses = [str(server) for server in servers]
    if not servers:
        raise ValueError("a ring needs at least one server")
    if len(set(addresses)) < len(addresses):
        raise ValueError(f"a server is named twice in {', '.join(addresses)}; give it more weight")
    return Crc32Ring(servers) if name == "crc32" else KetamaRing(servers)


class Crc32Ring:
    """Cache::Memcached's weighted buckets."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = tuple(servers)
        self._buckets = [
            index for index, server in enumerate(servers) for _ in range(server.weight)
        ]

    def locate(
        self, key: bytes, pin: int | None = None, dead: Collection[int] = _NONE_DEAD
    ) -> int | None:
        buckets = self._buckets
        place = (crc32(key) >> 16) & 0x7FFF if pin is None else pin
        index = buckets[place % len(buckets)]
        if not dead or index not in dead:
            return index
        if len(self.servers) == len(dead):
            return None
        for tries in range(1, MAX_TRIES):
            place += (crc32(b"%d%b" % (tries, key)) >> 16) & 0x7FFF
            index = buckets[place % len(buckets)]
            if index not in dead:
                return index
        return None


class KetamaRing:
    """libmemcached's weighted consistent ring."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = tuple(servers)
        self._all = _circle(self.servers, _NONE_DEAD)
        self._without: dict[frozenset[int], tuple[list[int], list[int]]] = {}

    def locate(
        self, key: bytes, pin: int | None = None, dead: Collection[int] = _NONE_DEAD
    ) -> int | None:
        points, owners = self._living(frozenset(dead)) if dead else self._all
        if not points:
            return None
        place = _key_point(key if pin is None else b"%d" % pin)
        at = bisect_left(points, place)
        return owners[at if at < len(points) else 0]

    def _living(self, dead: frozenset[int]) -> tuple[list[int], list[int]]:
        circle = self._without.get(dead)
        if circle is None:
            circle = _circle(self.servers, dead)
            if len(self._without) >= _MAX_REMEMBERED:
                self._without = {}
            self._without[dead] = circle
        return circle


def _key_point(key: bytes) -> int:
    return int.from_bytes(hashlib.md5(key, usedforsecurity=False).digest()[:4], "little")


def _single(value: float) -> float:
    """`value` in single precision, which is what libmemcached computes shares in."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


def _digests(weight: int, total: int, living: int) -> int:
    """How many MD5 digests, of four points each, a server puts on the circle.

    libmemcached takes floor(share * 160 / 4 * living + 1e-10) in single precision;
    the roundings decide whether a server has one digest more or less.
    """
    share = _single(_single(weight) / _single(total))
    share = _single(_single(share * POINTS_PER_SERVER) / 4)
    return floor(_single(_single(share * living) + 0.0000000001))


def _circle(servers: Sequence[Server], dead: Collection[int]) -> tuple[list[int], list[int]]:
    """Points in ascending order, and the index of the server that each belongs to."""
    living = [index for index in range(len(servers)) if index not in dead]
    total = sum(servers[index].weight for index in living)
    placed: list[tuple[int, int]] = []
    for index in living:
        server = servers[index]
        # The default port is left out of the name: libmemcached's name for such a server.
        name = server.host if server.port == DEFAULT_PORT else f"{server.host}:{server.port}"
        for number in range(_digests(server.weight, total, len(living))):
            digest = hashlib.md5(f"{name}-{number}".encode(), usedforsecurity=False).digest()
            placed += ((point, index) for point in struct.unpack("<4I", digest))
    placed.sort(key=lambda place: place[0])
    return [point for point, _ in placed], [index for _, index in placed]
