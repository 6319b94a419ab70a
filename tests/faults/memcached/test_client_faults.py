"""The client while real servers are killed, stopped and started again under load."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from lj_services.memcached.client import Client
from lj_services.memcached.rings import RingName, Server
from lj_services.memcached.trace import Answer
from tests.support.process import Running, accepts, free_port, spawn, suspend, wait_for

pytestmark = pytest.mark.faults

TIMEOUT_S = 0.3
RETRY_S = 0.5

Start = Callable[[int], AbstractContextManager[Running]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a real memcached on a port."""

    def start_on(port: int) -> AbstractContextManager[Running]:
        argv = ["memcached", "-u", "root", "-l", "127.0.0.1", "-p", str(port), "-t", "1"]
        return spawn(argv, tmp_path / f"{port}.log", ready=lambda: accepts(port))

    return start_on


def client_of(ports: list[int], **settings: Any) -> Client:
    settings = {"timeout_s": TIMEOUT_S, "dead_retry_s": RETRY_S, **settings}
    return Client([Server("127.0.0.1", port) for port in ports], **settings)


@contextmanager
def hammering(client: Client, threads: int, problems: list[str]) -> Iterator[Callable[[], int]]:
    """Threads that write and read; whatever they read must be what belongs to that key.

    Gives a function that counts the values that were read so far.
    """
    stop = threading.Event()
    hits = [0] * threads

    def hammer(me: int) -> None:
        draw = random.Random(me)
        try:
            while not stop.is_set():
                keys = [f"key:{draw.randrange(500)}" for _ in range(draw.choice([1, 1, 20]))]
                if draw.random() < 0.3:
                    client.set_many({key: f"value of {key}" for key in keys})
                elif len(keys) == 1:
                    value = client.get(keys[0])
                    hits[me] += value is not None
                    if value not in (None, f"value of {keys[0]}"):
                        problems.append(f"{keys[0]}: {value!r}")
                else:
                    found = client.get_many(keys)
                    hits[me] += len(found)
                    problems.extend(
                        f"{key}: {value!r}"
                        for key, value in found.items()
                        if value != f"value of {key}"
                    )
        except Exception as error:
            problems.append(repr(error))

    workers = [threading.Thread(target=hammer, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield lambda: sum(hits)
    finally:
        stop.set()
        for worker in workers:
            worker.join()


@pytest.mark.parametrize("ring", ["crc32", "ketama"])
def test_32_threads_on_one_client_while_servers_come_and_go(start: Start, ring: RingName) -> None:
    ports = [free_port() for _ in range(3)]
    problems: list[str] = []
    with (
        start(ports[0]) as stopped,
        start(ports[1]) as killed,
        start(ports[2]),
        client_of(ports, ring=ring) as client,
        hammering(client, 32, problems) as hits,
    ):
        wait_for(lambda: hits() > 2000, "values to be read")
        killed.kill()
        so_far = hits()
        wait_for(lambda: hits() > so_far + 2000, "reading to go on without the killed server")
        suspend(stopped.pid)
        so_far = hits()
        wait_for(lambda: hits() > so_far + 2000, "reading to go on without the stopped server")
        os.kill(stopped.pid, signal.SIGCONT)
        with start(ports[1]):
            home = server_keys(client, 1)
            wait_for(
                lambda: all(
                    server is not None and server.port == ports[1]
                    for server in map(client.server_for, home)
                ),
                "the server that was killed to be taken in again",
            )
            so_far = hits()
            wait_for(lambda: hits() > so_far + 2000, "reading to go on with all servers")
    assert problems == []


def server_keys(client: Client, index: int) -> list[str]:
    """Some keys that belong to a server while all live."""
    keys = (f"key:{number}" for number in range(500))
    return [key for key in keys if client.ring.locate(key.encode()) == index]


def test_a_stopped_server_costs_one_timeout_and_is_left_out(start: Start) -> None:
    port = free_port()
    with start(port) as server, client_of([port], dead_retry_s=600) as client:
        assert client.set("k", 1)
        suspend(server.pid)
        with client.trace() as trace:
            for _ in range(100):
                assert client.get("k") is None
        os.kill(server.pid, signal.SIGCONT)
    assert [answer.server is None for answer in trace.answers] == [False] + [True] * 99


def test_a_stopped_server_is_taken_in_again(start: Start) -> None:
    port = free_port()
    with start(port) as server, client_of([port]) as client:
        assert client.set("k", 1)
        suspend(server.pid)
        assert client.get("k") is None
        assert client.server_for("k") is None
        os.kill(server.pid, signal.SIGCONT)
        wait_for(lambda: client.get("k") == 1, "the server to be taken in again")


def test_while_a_stopped_server_is_tried_again_only_one_thread_waits(start: Start) -> None:
    port = free_port()
    answers: list[Answer] = []
    with start(port) as server, client_of([port], dead_retry_s=2.0) as client:
        client.set("k", 1)
        suspend(server.pid)
        client.get("k")
        wait_for(lambda: client.server_for("k") is not None, "the server to be due")
        together = threading.Barrier(16)

        def get() -> None:
            together.wait()
            with client.trace() as trace:
                client.get("k")
            answers.extend(trace.answers)

        threads = [threading.Thread(target=get) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.kill(server.pid, signal.SIGCONT)
    assert len(answers) == 16
    assert sum(answer.server is not None for answer in answers) == 1


def test_two_stopped_servers_cost_one_timeout_together(start: Start) -> None:
    ports = [free_port() for _ in range(3)]
    with (
        start(ports[0]) as first,
        start(ports[1]) as second,
        start(ports[2]),
        client_of(ports, timeout_s=1.0) as client,
    ):
        values = {(number, f"k{number}"): number for number in range(30)}
        assert client.set_many(values) == []
        for server in (first, second):
            suspend(server.pid)
        started = time.monotonic()
        found = client.get_many(values)
        elapsed_s = time.monotonic() - started
        for server in (first, second):
            os.kill(server.pid, signal.SIGCONT)
    assert found == {key: number for key, number in values.items() if number % 3 == 2}
    assert 1.0 <= elapsed_s < 1.9


def test_a_server_that_was_restarted_is_used_at_once(start: Start) -> None:
    port = free_port()
    with client_of([port], raise_faults=True) as client:
        with start(port) as server:
            assert client.set("k", 1)
            server.kill()
        with start(port):
            assert client.get("k") is None
            assert client.set("k", 2)
            assert client.get("k") == 2
