"""The client against servers that misbehave on purpose."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from lj_services.memcached.client import CasResult, Client
from lj_services.memcached.errors import (
    BadKey,
    BadValue,
    CommandRefused,
    ConnectionLost,
    Fault,
    ProtocolError,
    ServerTimeout,
    ServerUnreachable,
    UnreadableValue,
)
from lj_services.memcached.rings import Server
from tests.support.process import free_port
from tests.support.scripted_server import ScriptedServer, answering, serving, silent

pytestmark = pytest.mark.unit

SHORT_S = 0.15


def client_of(*servers: ScriptedServer | int, **settings: Any) -> Client:
    ports = [server if isinstance(server, int) else server.port for server in servers]
    settings = {"timeout_s": 5.0, "connect_timeout_s": 5.0, **settings}
    return Client([Server("127.0.0.1", port) for port in ports], **settings)


BROKEN_ANSWERS: list[tuple[bytes, type[Fault]]] = [
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", ProtocolError),
    (b"STORED\r\n", ProtocolError),
    (b"VALUE other 0 1\r\nx\r\nEND\r\n", ProtocolError),
    (b"VALUE k 0 1\r\nx\r\nEND\r\nEND\r\n", ProtocolError),
    (b"VALUE k 0 1\r\nx\r\nEND\r\nEN", ProtocolError),
    (b"VALUE k 0 1\r\nxyz\r\nEND\r\n", ProtocolError),
    (b"VALUE k 0 9999999999\r\n", ProtocolError),
    (b"VALUE k 1 1\r\nx\r\nEND\r\n", UnreadableValue),
    (b"SERVER_ERROR out of memory\r\n", CommandRefused),
    (b"CLIENT_ERROR bad command line format\r\n", CommandRefused),
    (b"ERROR\r\n", CommandRefused),
]


@pytest.mark.parametrize(("answer", "fault"), BROKEN_ANSWERS)
def test_a_broken_answer_is_a_miss_or_the_fault_that_was_asked_for(
    answer: bytes, fault: type[Fault]
) -> None:
    with serving(answering(answer)) as server:
        with client_of(server) as client:
            assert client.get("k", "default") == "default"
            assert client.get_many(["k"]) == {}
        with client_of(server, raise_faults=True) as client, pytest.raises(fault, match="127"):
            client.get("k")


@pytest.mark.parametrize(
    "answer", [b"END\r\n", b"7\r\n", b"VALUE k 0 1\r\nx\r\nEND\r\n", b"HD\r\n"]
)
def test_an_answer_of_the_wrong_kind_stores_nothing(answer: bytes) -> None:
    with serving(answering(answer)) as server:
        with client_of(server, dead_retry_s=0) as client:
            assert client.set("k", 1) is False
            assert client.set_many({"k": 1}) == ["k"]
            assert client.delete("k") is False
            assert client.cas("k", 1, 1) is CasResult.FAULT
        with client_of(server, raise_faults=True) as client, pytest.raises(ProtocolError):
            client.set("k", 1)


def closing_after(part: bytes) -> Callable[[socket.socket], None]:
    def script(connected: socket.socket) -> None:
        connected.recv(1 << 16)
        connected.sendall(part)

    return script


@pytest.mark.parametrize("part", [b"", b"VAL", b"VALUE k 0 10\r\nabc", b"VALUE k 0 1\r\nx\r\n"])
def test_a_connection_closed_in_mid_reply_is_a_miss(part: bytes) -> None:
    with serving(closing_after(part)) as server:
        with client_of(server) as client:
            assert client.get("k") is None
            assert client.incr("k") is None
            # It was reached: only a server that can't be, or is silent, is left out.
            assert client.server_for("k") is not None
        with client_of(server, raise_faults=True) as client, pytest.raises(ConnectionLost):
            client.get("k")


def test_a_silent_server_costs_one_timeout_and_is_then_left_out() -> None:
    with serving(silent) as server, client_of(server, timeout_s=SHORT_S) as client:
        started = time.monotonic()
        assert client.get("k") is None
        first_s = time.monotonic() - started
        assert first_s >= SHORT_S
        for number in range(50):
            assert client.get(f"k{number}") is None
        assert len(server.connections) == 1
        assert client.server_for("k") is None
        with client.trace() as trace:
            client.set("k", 1)
        assert trace.answers[0].outcome == "fault"
        assert trace.answers[0].server is None


def test_half_a_reply_and_then_silence_is_a_timeout() -> None:
    with (
        serving(answering(b"VALUE k 0 10\r\nabc")) as server,
        client_of(server, timeout_s=SHORT_S, raise_faults=True) as client,
        pytest.raises(ServerTimeout),
    ):
        client.get("k")


def test_a_server_that_trickles_cannot_hold_the_caller() -> None:
    def trickle(connected: socket.socket) -> None:
        connected.recv(1 << 16)
        while True:
            connected.sendall(b"STAT a b\r\n")
            time.sleep(0.01)

    with (
        serving(trickle) as server,
        client_of(server, timeout_s=SHORT_S, raise_faults=True) as client,
        pytest.raises(ServerTimeout),
    ):
        client.get("k")


def test_a_late_reply_goes_to_nobody() -> None:
    release = threading.Event()

    def late_then_prompt(connected: socket.socket) -> None:
        if len(server.connections) == 1:
            connected.recv(1 << 16)
            release.wait(10)
            connected.sendall(b"VALUE a 0 5\r\nstale\r\nEND\r\n")
            return
        release.set()
        while connected.recv(1 << 16):
            connected.sendall(b"VALUE a 0 5\r\nfresh\r\nEND\r\n")

    with (
        serving(late_then_prompt) as server,
        client_of(server, timeout_s=SHORT_S, dead_retry_s=0) as client,
    ):
        assert client.get("a") is None
        assert client.get("a") == b"fresh"


def test_a_stray_byte_on_an_idle_connection_ends_it() -> None:
    strays = threading.Event()

    def stray(connected: socket.socket) -> None:
        connected.recv(1 << 16)
        connected.sendall(b"END\r\n")
        if len(server.connections) == 1:
            connected.sendall(b"END\r\n")
            strays.set()
        while connected.recv(1 << 16):
            connected.sendall(b"VALUE k 0 1\r\nx\r\nEND\r\n")

    with serving(stray) as server, client_of(server, dead_retry_s=0) as client:
        client.get("k")
        assert strays.wait(10)
        client.get("k")
        assert client.get("k") == b"x"
        assert len(server.connections) == 2


def test_an_idle_connection_that_the_server_closed_costs_nothing() -> None:
    def one_each(connected: socket.socket) -> None:
        connected.recv(1 << 16)
        connected.sendall(b"VALUE k 0 1\r\nx\r\nEND\r\n")

    with serving(one_each) as server, client_of(server, raise_faults=True) as client:
        for _ in range(20):
            assert client.get("k") == b"x"


def test_a_command_that_may_be_repeated_is_when_an_idle_connection_was_closed() -> None:
    def one_each(connected: socket.socket) -> None:
        connected.recv(1 << 16)
        connected.sendall(b"STORED\r\n")
        connected.recv(1 << 16)  # reads the second request, and closes without a word

    with serving(one_each) as server, client_of(server, raise_faults=True) as client:
        assert client.set("k", 1)
        assert client.set("k", 2)
        assert len(server.connections) == 2
        with pytest.raises(ConnectionLost):
            client.add("k", 3)
        assert len(server.connections) == 2


def test_keys_of_a_server_that_cannot_be_reached_go_to_a_living_one() -> None:
    with serving(answering(b"STORED\r\n")) as living:
        dead = free_port()
        with client_of(dead, living, raise_faults=True) as client:
            assert client.set((0, "k"), 1)
            assert client.server_for((0, "k")) == client.servers[1]
        with client_of(dead, living, rehash=False) as client:
            assert client.set((0, "k"), 1) is False
            assert client.server_for((0, "k")) is None
            assert client.set((1, "k"), 1)
    with client_of(free_port(), raise_faults=True) as client:
        with pytest.raises(ServerUnreachable, match="refused"):
            client.get("k")
        with pytest.raises(ServerUnreachable, match="left out"):
            client.get("k")


def test_a_server_that_is_away_is_logged_once_not_for_every_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with client_of(free_port(), dead_retry_s=60) as client:
        for _ in range(10):
            assert client.get_many([f"k{number}" for number in range(100)]) == {}
    assert len(caplog.records) == 1
    assert "left out for" in caplog.records[0].getMessage()


def test_a_refusal_of_many_keys_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refusal = b"SERVER_ERROR out of memory\r\n"
    with serving(answering(3 * refusal)) as server, client_of(server) as client:
        assert client.set_many({"a": 1, "b": 2, "c": 3}) == ["a", "b", "c"]
    assert [record.getMessage()[:48] for record in caplog.records] == [
        "memcached fault, taken as a miss (3 of them): 12"
    ]


def test_all_addresses_of_a_name_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    found = socket.getaddrinfo

    def two_addresses(_host: str, port: int, **kind: Any) -> list[Any]:
        return [*found("127.0.0.2", port, **kind), *found("127.0.0.1", port, **kind)]

    with serving(answering(b"VALUE k 0 1\r\nx\r\nEND\r\n")) as server:
        monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
        with Client([Server("cache", server.port)], raise_faults=True) as client:
            assert client.get("k") == b"x"


def test_keys_of_a_silent_server_are_not_sent_elsewhere_in_the_same_call() -> None:
    with (
        serving(silent) as mute,
        serving(answering(b"STORED\r\n")) as living,
        client_of(mute, living, timeout_s=SHORT_S) as client,
    ):
        assert client.add((0, "k"), 1) is False
        assert len(living.connections) == 0
        assert client.add((0, "k"), 1)


def test_all_servers_are_asked_before_any_answers() -> None:
    together = threading.Barrier(4)

    def when_all_were_asked(connected: socket.socket) -> None:
        while request := connected.recv(1 << 16):
            together.wait(10)
            key = request.split()[1]
            connected.sendall(b"VALUE %b 0 1\r\nx\r\nEND\r\n" % key)

    with (
        serving(when_all_were_asked) as a,
        serving(when_all_were_asked) as b,
        serving(when_all_were_asked) as c,
        serving(when_all_were_asked) as d,
        client_of(a, b, c, d, raise_faults=True) as client,
    ):
        keys = [(number, f"k{number}") for number in range(4)]
        assert client.get_many(keys) == dict.fromkeys(keys, b"x")


def test_what_answered_counts_when_another_server_does_not() -> None:
    with (
        serving(silent) as mute,
        serving(answering(b"VALUE k1 0 1\r\nx\r\nEND\r\n")) as living,
        client_of(mute, living, timeout_s=SHORT_S) as client,
        client.trace() as trace,
    ):
        assert client.get_many([(0, "k0"), (1, "k1"), (3, "k3")]) == {(1, "k1"): b"x"}
    outcomes = {answer.key: answer.outcome for answer in trace.answers}
    assert outcomes == {"k0": "fault", "k1": "hit", "k3": "miss"}
    assert trace.servers() == {
        f"127.0.0.1:{mute.port}": {"fault": 1},
        f"127.0.0.1:{living.port}": {"hit": 1, "miss": 1},
    }


def test_a_server_that_stops_reading_while_it_answers_cannot_lock_up_the_client() -> None:
    value = b"x" * 20_000
    keys = [f"{number:0200d}" for number in range(2000)]

    def answer_each_line_before_reading_on(connected: socket.socket) -> None:
        with connected.makefile("rb") as lines:
            for line in lines:
                for key in line.split()[1:]:
                    connected.sendall(b"VALUE %b 0 %d\r\n%b\r\n" % (key, len(value), value))
                connected.sendall(b"END\r\n")

    with (
        serving(answer_each_line_before_reading_on) as server,
        client_of(server, raise_faults=True, timeout_s=60) as client,
    ):
        assert client.get_many(keys) == dict.fromkeys(keys, value)


def test_one_refused_value_does_not_fail_the_others() -> None:
    with (
        serving(answering(b"STORED\r\nSERVER_ERROR object too large for cache\r\nSTORED\r\n")) as s,
        client_of(s) as client,
    ):
        assert client.set_many({"a": 1, "b": 2, "c": 3}) == ["b"]


def test_after_an_error_that_may_mean_lost_step_the_connection_is_not_used_again() -> None:
    with (
        serving(answering(b"CLIENT_ERROR bad data chunk\r\n")) as server,
        client_of(server) as client,
    ):
        client.set("a", 1)
        client.set("a", 1)
        assert len(server.connections) == 2


def test_the_callers_mistakes_are_always_raised() -> None:
    client = client_of(free_port())
    calls: list[Callable[[], Any]] = [
        lambda: client.get("a b"),
        lambda: client.get_many(["a", "a b"]),
        lambda: client.set_many({"a": 1, "": 2}),
        lambda: client.delete_many(["x" * 251]),
        lambda: client.incr("\n"),
        lambda: client.server_for("a\r\nflush_all\r\n"),
    ]
    for call in calls:
        with pytest.raises(BadKey):
            call()
    with pytest.raises(BadValue):
        client.set("a", object())
    with pytest.raises(ValueError, match="delta"):
        client.incr("a", -1)
    with pytest.raises(ValueError, match="word"):
        client.stats("items\r\nflush_all")


def test_a_forked_child_uses_connections_of_its_own() -> None:
    with (
        serving(answering(b"VALUE k 0 1\r\nx\r\nEND\r\n")) as server,
        client_of(server, raise_faults=True) as client,
    ):
        assert client.get("k") == b"x"
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if client.get("k") == b"x" else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(server.connections) == 2


def test_a_trace_notes_only_its_own_client_and_block() -> None:
    with (
        serving(answering(b"VALUE k 0 1\r\nx\r\nEND\r\n")) as server,
        client_of(server) as client,
        client_of(server) as other,
    ):
        with client.trace() as trace:
            client.get("k")
            other.get("k")
        client.get("k")
    assert [(answer.operation, answer.key, answer.outcome) for answer in trace.answers] == [
        ("get", "k", "hit")
    ]


def test_a_closed_client_keeps_no_connections() -> None:
    with serving(answering(b"VALUE k 0 1\r\nx\r\nEND\r\n")) as server:
        client = client_of(server)
        client.get("k")
        client.close()
        assert client.get("k") == b"x"
        assert client.get("k") == b"x"
        assert len(server.connections) == 3
