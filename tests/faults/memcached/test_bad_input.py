"""Clients that break the protocol, fall silent or don't read: nobody else notices."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from tests.support.memcached import MemcachedServer, Start
from tests.support.process import wait_for

pytestmark = pytest.mark.faults

MIB = 1 << 20


@pytest.fixture
def server(our_memcached: Start) -> MemcachedServer:
    return our_memcached()


def resident(server: MemcachedServer) -> int:
    """Memory of the server's process, in bytes."""
    return int(psutil.Process(server.running.pid).memory_info().rss)


@contextmanager
def another_client(server: MemcachedServer) -> Iterator[None]:
    """A well-behaved client that works for the length of the block, and must not notice it."""
    stop = threading.Event()
    wrong: list[object] = []

    def work() -> None:
        try:
            with server.connect() as client:
                number = 0
                while not stop.is_set():
                    number += 1
                    value = b"%d" % number
                    client.ask(b"set other 0 0 %d\r\n%b\r\n" % (len(value), value))
                    reply = client.ask(b"get other\r\n", until=b"END\r\n")
                    if value not in reply:
                        wrong.append(reply)
        except Exception as error:
            wrong.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert wrong == []


def test_over_long_keys_and_lines(server: MemcachedServer) -> None:
    with another_client(server):
        refusal = b"CLIENT_ERROR bad command line format\r\n"
        assert server.exchange(b"get " + b"k" * 251 + b"\r\n") == refusal
        assert server.exchange(b"x" * 3000) == b"CLIENT_ERROR line too long\r\n"
        assert server.exchange(b"get " + b"k" * 300_000) == b"CLIENT_ERROR line too long\r\n"


def test_wrong_byte_counts(server: MemcachedServer) -> None:
    with another_client(server), server.connect() as client:
        assert client.ask(b"set k 0 0 2\r\nabc\r\n") == b"CLIENT_ERROR bad data chunk\r\n"
        assert client.read() == b"ERROR\r\n"
        assert client.ask(b"get k\r\n") == b"END\r\n"


def test_the_binary_protocol(server: MemcachedServer) -> None:
    with another_client(server), server.connect() as client:
        client.send(b"\x80\x0b" + bytes(22))
        reply = client.rest()
        assert reply.startswith(b"\x81\x0b")
        assert b"use the text protocol" in reply


def test_a_value_over_the_limit_leaves_no_trace(server: MemcachedServer) -> None:
    with another_client(server), server.connect() as client:
        client.ask(b"set k 0 0 1\r\nx\r\n")
        before = resident(server)
        client.send(b"set k 0 0 %d\r\n" % (200 * MIB))
        assert client.read() == b"SERVER_ERROR object too large for cache\r\n"
        for _ in range(200):
            client.send(b"v" * MIB)
        client.send(b"\r\n")
        assert client.ask(b"get k\r\n") == b"END\r\n"
        assert resident(server) - before < 4 * MIB


def test_half_a_command_and_then_silence(our_memcached: Start) -> None:
    server = our_memcached("idle_timeout_s=0.5")
    with another_client(server), ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(3)]
        clients[0].send(b"get half a li")
        clients[1].send(b"set k 0 0 1000\r\nhalf a value")
        for client in clients:
            assert client.closed


def test_halves_of_values_count_against_the_limit(our_memcached: Start) -> None:
    server = our_memcached("memory_limit=16m", fresh=True)
    half = b"x" * (MIB // 2)
    with ExitStack() as stack:
        with server.connect() as client:
            for number in range(40):
                client.ask(b"set key%d 0 0 %d\r\n%b\r\n" % (number, len(half), half))
        before = resident(server)
        silent = [stack.enter_context(server.connect()) for _ in range(100)]
        for client in silent:
            client.send(b"set k 0 0 %d\r\n%b" % (MIB - 10, half))
        refused = 0
        for client in silent:
            client.socket.settimeout(0.2)
            try:
                refused += client.read() == b"SERVER_ERROR out of memory storing object\r\n"
            except TimeoutError:
                continue
        assert refused > 50
        stats = server.stats()
        assert 0 < int(stats["bytes_arriving"]) <= 8 * MIB
        assert int(stats["bytes"]) <= 16 * MIB
        assert resident(server) - before < 16 * MIB
    wait_for(lambda: server.stats()["bytes_arriving"] == "0", "the memory of halves to be free")


def test_a_client_that_does_not_read(our_memcached: Start) -> None:
    server = our_memcached("memory_limit=64m", fresh=True)
    value = b"x" * 900_000
    with another_client(server), server.connect() as client:
        client.ask(b"set big 0 0 %d\r\n%b\r\n" % (len(value), value))
        before = resident(server)
        asked = 2000  # 1.8 GB of replies
        client.send(b"get big\r\n" * asked)
        client.send(b"get " + b"big " * asked + b"\r\n")
        # Its turn is over when the buffers are full; the server does other things meanwhile.
        for _ in range(50):
            server.stats()
        assert resident(server) - before < 32 * MIB
        for _ in range(20):
            assert len(client.read(b"END\r\n")) > len(value)
    wait_for(lambda: server.stats()["curr_connections"] in ("1", "2"), "the client to be gone")


def test_ten_thousand_idle_connections(our_memcached: Start) -> None:
    number = 10_000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = hard if hard == resource.RLIM_INFINITY else max(hard, number + 500)  # root may
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))  # what the server is born with
    server = our_memcached(f"max_connections={number + 1}", fresh=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + 500, hard))
    before = resident(server)
    idle: list[socket.socket] = []
    try:
        for index in range(number):
            # From several addresses, so that ports last.
            source = (f"127.0.1.{index % 4 + 1}", 0)
            idle.append(socket.create_connection(("127.0.0.1", server.port), 20, source))
        with server.connect() as client:
            assert client.ask(b"set k 0 0 1\r\nx\r\n") == b"STORED\r\n"
            assert client.ask(b"get k\r\n", b"END\r\n") == b"VALUE k 0 1\r\nx\r\nEND\r\n"
            with server.connect() as one_too_many:
                assert one_too_many.rest() == b"ERROR Too many open connections\r\n"
        grown = resident(server) - before
        assert grown < number * 8192, f"{grown / number:.0f} bytes a connection"
    finally:
        for connection in idle:
            connection.close()
    wait_for(
        lambda: server.exchange(b"version\r\n").startswith(b"VERSION"), "room for clients again"
    )


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"get " + b" ".join(b"%d" % number for number in range(30_000)) + b"\r\n",
        b"set k 0 0 200000\r\n" + b"x" * 200_000 + b"\r\n",
        b"set k 0 0 1000\r\n" + b"x" * 1000 + b"\r\n" + b"get other\r\n" * 10_000,
    ],
    ids=["get", "set", "pipeline"],
)
def test_clients_that_rest_leave_nothing_of_what_they_sent(
    our_memcached: Start, request_bytes: bytes
) -> None:
    server = our_memcached(fresh=True)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(200)]
        before = resident(server)
        for client in clients:
            client.send(request_bytes + b"version\r\n")
            client.read(b"VERSION")
        assert resident(server) - before < 8 * MIB


def test_sigterm_drains(our_memcached: Start) -> None:
    server = our_memcached(fresh=True)
    value = b"x" * 500_000
    with server.connect() as idle, server.connect() as reader:
        reader.ask(b"set big 0 0 %d\r\n%b\r\n" % (len(value), value))
        reader.send(b"get big\r\n" * 40 + b"version\r\n")
        reader.read(b"END\r\n")  # it is being answered
        server.running.process.terminate()
        assert idle.closed
        rest = reader.rest()
        assert rest.count(b"END\r\n") == 39
        assert b"VERSION" in rest[-100:]
    assert server.running.process.wait(10) == 0
    with pytest.raises(OSError, match="refused"):
        server.connect()
