"""The memory limit, in a real process: ten times the memory stored, and the process stays small."""

from __future__ import annotations

import random
from collections.abc import Callable

import psutil
import pytest

from tests.support.memcached import Start

pytestmark = pytest.mark.faults

MIB = 1 << 20
LIMIT = 32 * MIB


def small(_dice: random.Random) -> int:
    return 100


def mixed(dice: random.Random) -> int:
    return int(2 ** dice.uniform(0, 16))


def growing(dice: random.Random) -> int:
    """Sizes that change over time: what leaves holes where nothing new fits."""
    growing.stage = getattr(growing, "stage", 0) + 1  # type: ignore[attr-defined]
    return 50 + growing.stage // 20 + dice.randrange(50)  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [small, mixed, growing])
def test_the_limit_holds(size: Callable[[random.Random], int], our_memcached: Start) -> None:
    server = our_memcached("memory_limit=32m", fresh=True)
    process = psutil.Process(server.running.pid)
    before = process.memory_info().rss
    dice = random.Random(1)
    stored = 0
    number = 0
    highest = 0
    with server.connect() as client:
        while stored < 10 * LIMIT:
            batch = []
            for _ in range(200):
                number += 1
                length = size(dice)
                expiry = 0 if number % 3 else 3600
                batch.append(
                    b"set key:%d 0 %d %d\r\n%b\r\n" % (number, expiry, length, b"v" * length)
                )
                stored += length + 350  # what an item takes at least
            client.send(b"".join(batch))
            for _ in batch:
                assert client.read() == b"STORED\r\n"
            highest = max(highest, process.memory_info().rss - before)
        assert client.ask(b"get key:%d\r\n" % number, b"END\r\n").startswith(b"VALUE")
        assert client.ask(b"get key:1\r\n") == b"END\r\n"
    stats = server.stats()
    assert int(stats["bytes"]) <= LIMIT
    assert int(stats["bytes"]) > 0.9 * LIMIT
    assert int(stats["evictions"]) > int(stats["curr_items"])
    # What is counted is what is used: the process grew by no more than the limit, the
    # holes that an allocator leaves, the second table that a dictionary has while it
    # grows, and buffers of a few megabytes.
    assert highest < 1.4 * LIMIT + 8 * MIB, f"{highest / LIMIT:.2f} times the limit"
