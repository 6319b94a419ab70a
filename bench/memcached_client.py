"""The memcached client beside pymemcache's HashClient and pylibmc, over four real servers.

All run in this process, one after the other, against the same four memcacheds.
Values are text of 100 bytes, which all three give back as str.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pylibmc
from pymemcache.client.hash import HashClient
from pymemcache.serde import PickleSerde

import lj_services
from bench.harness import Comparison, Contender, Load, Subject
from bench.memcached import memcached_version, running
from lj_services.memcached.client import Client
from lj_services.memcached.rings import Server

TITLE = "memcached client"

SERVERS = 4
KEYS = [f"bench:key:{number:08d}" for number in range(100)]
VALUES = dict.fromkeys(KEYS, "v" * 100)
ARGV = ["memcached", "-u", "root", "-l", "127.0.0.1", "-p", "PORT", "-t", "1", "-m", "64"]


@contextmanager
def four_servers(connect: Callable[[list[int]], Any]) -> Iterator[Subject]:
    """A client of four real servers of its own, which have the values."""
    with ExitStack() as stack:
        ports = [stack.enter_context(running(ARGV)).value for _ in range(SERVERS)]
        client = connect(ports)
        for key, value in VALUES.items():
            client.set(key, value)
        yield Subject(client, os.getpid())


def ours(ports: list[int]) -> Client:
    return Client([Server("127.0.0.1", port) for port in ports], raise_faults=True, timeout_s=10)


def pymemcache_client(ports: list[int]) -> HashClient:
    servers = [("127.0.0.1", port) for port in ports]
    return HashClient(servers, serde=PickleSerde(), no_delay=True, default_noreply=False)


class Pylibmc:
    """pylibmc under the names that the loads use."""

    def __init__(self, ports: list[int]) -> None:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        client = pylibmc.Client(addresses, behaviors={"ketama_weighted": True, "tcp_nodelay": True})
        self.get, self.set = client.get, client.set
        self.get_many, self.set_many = client.get_multi, client.set_multi


def rate(subject: Subject, *, call: Callable[[Any], Any], keys: int, duration_s: float) -> float:
    """Keys a second of calling over and over."""
    client, calls = subject.value, 0
    started = time.perf_counter()
    while (elapsed_s := time.perf_counter() - started) < duration_s:
        call(client)
        calls += 1
    return calls * keys / elapsed_s


def get_many(client: Any) -> None:
    if client.get_many(KEYS) != VALUES:
        raise RuntimeError("a multi-get did not bring all values")


def set_many(client: Any) -> None:
    client.set_many(VALUES)


def get(client: Any) -> None:
    if client.get(KEYS[0]) != VALUES[KEYS[0]]:
        raise RuntimeError("a get did not bring its value")


def set_(client: Any) -> None:
    client.set(KEYS[0], VALUES[KEYS[0]])


def comparisons(quick: bool) -> Iterator[Comparison]:
    """Multi-get and multi-set of 100 keys, and single gets and sets."""
    measure = partial(partial, rate, duration_s=1 if quick else 3)
    loads = [
        Load("get_many of 100 keys", "keys/s", measure(call=get_many, keys=len(KEYS))),
        Load("set_many of 100 keys", "keys/s", measure(call=set_many, keys=len(KEYS))),
        Load("get", "calls/s", measure(call=get, keys=1)),
        Load("set", "calls/s", measure(call=set_, keys=1)),
    ]
    mine = Contender("Client", lj_services.__version__, partial(four_servers, ours))
    peers: list[tuple[str, str, Callable[[list[int]], Any], str, list[str]]] = [
        (
            "pymemcache HashClient",
            "pymemcache",
            pymemcache_client,
            "get_many at least 2 times as fast",
            ["Neither thread-safe nor compatible with other clients' rings; ours is both."],
        ),
        ("pylibmc", "pylibmc", Pylibmc, "", ["libmemcached, in C; not thread-safe."]),
    ]
    for name, package, connect, goal, notes in peers:
        version = importlib.metadata.version(package)
        yield Comparison(
            f"Beside {name}: {SERVERS} servers (memcached {memcached_version()}), one thread",
            ours=mine,
            peer=Contender(name, version, partial(four_servers, connect)),
            loads=loads,
            goal=goal,
            notes=notes,
        )
