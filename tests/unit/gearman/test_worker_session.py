"""Which servers a worker connects to and asks, decided without sockets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lj_services.gearman.client_errors import GearmanError
from lj_services.gearman.protocol import Magic, Packet, PacketType
from lj_services.gearman.worker_link import State
from lj_services.gearman.worker_session import ServerState, WorkerSession

pytestmark = pytest.mark.unit

Session = WorkerSession[Callable[..., object], str]


def session(count: int, at_once: int = 1) -> Session:
    made = Session(
        [f"s{number}" for number in range(count)], client_id="w", max_pause_s=1, at_once=at_once
    )
    made.register("f", print, None)
    made.register("g", print, 2.5)
    for server in made.due(0.0):
        connect(made, server)
    return made


def connect(made: Session, server: ServerState[str]) -> list[tuple[PacketType, tuple[bytes, ...]]]:
    return list(made.greet(server, "connected"))


def packet(kind: PacketType, *args: bytes) -> Packet:
    return Packet(Magic.RESPONSE, kind, args)


def asked(made: Session) -> ServerState[str]:
    server = made.next_to_ask()
    assert server is not None
    server.link.grab()
    return server


def assign(made: Session, server: ServerState[str]) -> None:
    got = server.link.received(packet(PacketType.JOB_ASSIGN_UNIQ, b"H:1", b"f", b"", b""))
    assert got is not None
    made.running += 1


def test_a_server_is_told_the_name_and_the_functions_with_time_to_spare() -> None:
    made = session(1)
    (server,) = made.servers
    made.failed(server, 0.0, GearmanError("gone"))
    assert connect(made, server) == [
        (PacketType.SET_CLIENT_ID, (b"w",)),
        (PacketType.CAN_DO, (b"f",)),
        (PacketType.CAN_DO_TIMEOUT, (b"g", b"3500")),
    ]


def test_pauses_between_attempts_grow_to_the_longest() -> None:
    made = session(1)
    (server,) = made.servers
    pauses = []
    for _ in range(6):
        made.failed(server, 100.0, GearmanError("gone"))
        pauses.append(server.retry_at - 100.0)
        assert made.due(server.retry_at - 0.001) == []
        assert made.due(server.retry_at) == [server]
    for pause, limit in zip(pauses, [0.1, 0.2, 0.4, 0.8, 1.0, 1.0], strict=True):
        assert limit / 2 <= pause <= limit
    assert made.next_retry() == server.retry_at


def test_one_job_at_a_time_asks_one_server_at_a_time_in_turn() -> None:
    made = session(3)
    first = asked(made)
    assert made.next_to_ask() is None
    first.link.received(packet(PacketType.NO_JOB))
    second = asked(made)
    assert second is not first
    assign(made, second)
    assert made.next_to_ask() is None
    second.link.finished()
    made.running -= 1
    third = asked(made)
    assert third not in (first, second)


def test_answers_that_are_due_count_as_jobs() -> None:
    made = session(3, at_once=2)
    one, two = asked(made), asked(made)
    assert made.next_to_ask() is None
    assign(made, one)
    assert one.link.state is State.AWAKE
    assert made.next_to_ask() is None
    two.link.received(packet(PacketType.NO_JOB))
    assert made.next_to_ask() is not None


def test_one_server_may_give_all_jobs() -> None:
    made = session(1, at_once=3)
    for _ in range(3):
        assign(made, asked(made))
    (server,) = made.servers
    assert server.link.state is State.BUSY
    assert made.next_to_ask() is None
    server.link.finished()
    made.running -= 1
    assert asked(made) is server


@pytest.mark.parametrize("at_once", [0, -1])
def test_no_worker_without_jobs(at_once: int) -> None:
    with pytest.raises(ValueError, match="at_once"):
        session(1, at_once)
