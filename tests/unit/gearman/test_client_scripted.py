"""The client and servers that misbehave."""

from __future__ import annotations

import socket

import pytest

from lj_services.gearman.client import Client
from lj_services.gearman.client_errors import (
    BadAnswer,
    ConnectionLost,
    GearmanError,
    TaskRefused,
    TaskTimeout,
)
from lj_services.gearman.protocol import Magic, Packet, PacketParser, PacketType, response
from tests.support.process import wait_for
from tests.support.scripted_server import Script, answering, serving, silent

pytestmark = pytest.mark.unit

SUBMITS = {PacketType.SUBMIT_JOB, PacketType.SUBMIT_JOB_BG}


def server(*answers: bytes) -> Script:
    """Grants the option, and answers every submit with `answers`."""

    def script(connected: socket.socket) -> None:
        parser = PacketParser(Magic.REQUEST)
        while data := connected.recv(1 << 16):
            parser.feed(data)
            while (packet := parser.next()) is not None:
                assert isinstance(packet, Packet)
                if packet.type is PacketType.OPTION_REQ:
                    connected.sendall(response(PacketType.OPTION_RES, b"exceptions"))
                elif packet.type in SUBMITS:
                    connected.sendall(b"".join(answers))

    return script


CREATED = response(PacketType.JOB_CREATED, b"H:1")
DONE = response(PacketType.WORK_COMPLETE, b"H:1", b"done")
FULL = response(PacketType.ERROR, b"QUEUE_ERROR", b"Job queue is full")


def cut(connected: socket.socket) -> None:
    connected.recv(1 << 16)


def test_a_full_server_is_left_for_the_next() -> None:
    with serving(server(FULL)) as full, serving(server(CREATED, DONE)) as free:
        for order in ([full, free], [free, full]):
            with Client([f"127.0.0.1:{one.port}" for one in order]) as client:
                for _ in range(2):  # the first server is chosen in turn
                    assert client.do("f", timeout_s=10) == b"done"


def test_when_all_are_full_the_task_is_refused() -> None:
    with serving(server(FULL)) as one, serving(server(FULL)) as two:
        client = Client([f"127.0.0.1:{s.port}" for s in (one, two)])
        with client, pytest.raises(TaskRefused, match="Job queue is full"):
            client.submit("f")


def test_a_connection_is_used_again_when_nothing_is_under_way() -> None:
    with serving(server(CREATED, DONE)) as one:
        with Client([f"127.0.0.1:{one.port}"]) as client:
            for _ in range(3):
                assert client.do("f", timeout_s=10) == b"done"
        assert len(one.connections) == 1


def test_a_result_that_comes_after_the_time_limit_reaches_nobody() -> None:
    with serving(server(CREATED)) as one, Client([f"127.0.0.1:{one.port}"]) as client:
        for expected in (1, 2):
            with pytest.raises(TaskTimeout):
                client.do("f", timeout_s=0.05)
            # Not the one on which it may still come; the server takes its time to see it.
            wait_for(lambda: len(one.connections) >= expected, "a connection")  # noqa: B023
            assert len(one.connections) == expected


@pytest.mark.parametrize("wrong", [b"HTTP/1.1 400 Bad Request\r\n\r\n", DONE[:4] + b"\xff" * 8])
def test_a_server_that_speaks_something_else(wrong: bytes) -> None:
    with serving(answering(wrong)) as one:
        client = Client([f"127.0.0.1:{one.port}"])
        with client, pytest.raises(GearmanError, match=str(one.port)):
            client.do("f", timeout_s=10)


def test_a_lost_task_with_a_key_is_not_submitted_for_ever() -> None:
    with serving(cut) as one, serving(cut) as two:
        client = Client([f"127.0.0.1:{s.port}" for s in (one, two)])
        with client, pytest.raises(ConnectionLost):
            client.do("f", unique="k", timeout_s=10)
        assert len(one.connections) + len(two.connections) == 3


def test_a_lost_task_without_a_key_is_not_submitted_again() -> None:
    with serving(cut) as one, Client([f"127.0.0.1:{one.port}"]) as client:
        with pytest.raises(ConnectionLost):
            client.do("f", timeout_s=10)
        assert len(one.connections) == 1


def test_callbacks_may_add_tasks() -> None:
    with serving(server(CREATED, DONE)) as one, Client([f"127.0.0.1:{one.port}"]) as client:
        tasks = client.task_set()
        tasks.add("f", on_complete=lambda _: tasks.add("f", b"second"))
        assert [task.value() for task in tasks.run(timeout_s=10)] == [b"done", b"done"]


def test_what_a_callback_raises_ends_the_run() -> None:
    def fail(_: object) -> None:
        raise LookupError("mine")

    with serving(server(CREATED, DONE)) as one, Client([f"127.0.0.1:{one.port}"]) as client:
        tasks = client.task_set()
        tasks.add("f", on_complete=fail)
        with pytest.raises(LookupError, match="mine"):
            tasks.run(timeout_s=10)


def test_questions_to_a_server_that_gives_no_answer_or_a_wrong_one() -> None:
    with serving(silent) as one:
        client = Client([f"127.0.0.1:{one.port}"], answer_timeout_s=0.05)
        with client, pytest.raises(ConnectionLost, match=r"0\.05 s"):
            client.ping(client.servers[0])
    with serving(answering(DONE)) as one:
        client = Client([f"127.0.0.1:{one.port}"])
        with client, pytest.raises(BadAnswer, match="WORK_COMPLETE"):
            client.status_of_unique("k")
