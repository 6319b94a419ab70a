"""What a worker says to one server, step by step."""

from __future__ import annotations

import pytest

from lj_services.gearman.client_errors import BadAnswer
from lj_services.gearman.protocol import Magic, Packet, PacketType
from lj_services.gearman.worker import Worker
from lj_services.gearman.worker_jobs import as_bytes
from lj_services.gearman.worker_link import Assignment, Link, State

pytestmark = pytest.mark.unit


def packet(kind: PacketType, *args: bytes) -> Packet:
    return Packet(Magic.RESPONSE, kind, args)


def asked() -> Link:
    link = Link()
    assert link.grab() is PacketType.GRAB_JOB_ALL
    return link


def test_without_a_job_it_sleeps_until_it_is_woken() -> None:
    link = asked()
    assert link.received(packet(PacketType.NO_JOB)) is None
    assert link.sleep() is PacketType.PRE_SLEEP
    link.received(packet(PacketType.NOOP))
    assert link.state is State.AWAKE


def test_a_job_keeps_it_busy_until_it_is_finished() -> None:
    link = asked()
    got = link.received(packet(PacketType.JOB_ASSIGN_UNIQ, b"H:1", b"f", b"u", b"p"))
    assert got == Assignment(b"H:1", b"f", b"u", b"p")
    assert link.state is State.BUSY
    link.finished()
    assert link.state is State.AWAKE


def test_a_job_with_a_reducer() -> None:
    got = asked().received(packet(PacketType.JOB_ASSIGN_ALL, b"H:1", b"f", b"u", b"sum", b"p"))
    assert got == Assignment(b"H:1", b"f", b"u", b"p", b"sum")


def test_a_late_wake_up_does_not_disturb_the_grab() -> None:
    link = asked()
    link.received(packet(PacketType.NOOP))
    assert link.state is State.ASKED
    link.received(packet(PacketType.NO_JOB))
    assert link.state is State.EMPTY
    link.received(packet(PacketType.NOOP))
    assert link.state is State.AWAKE


def test_the_failure_behind_an_exception_may_be_refused() -> None:
    link = asked()
    late = packet(PacketType.ERROR, b"JOB_NOT_FOUND", b"Job given in work result not found")
    assert link.received(late) is None
    assert link.state is State.ASKED


def test_a_server_that_does_not_know_the_newer_grab_is_asked_in_the_older_way() -> None:
    link = asked()
    for older in (PacketType.GRAB_JOB_UNIQ, PacketType.GRAB_JOB):
        assert link.received(packet(PacketType.ERROR, b"server_error", b"what?")) is None
        assert link.grab() is older
    got = link.received(packet(PacketType.JOB_ASSIGN, b"H:1", b"f", b"p"))
    assert got == Assignment(b"H:1", b"f", b"", b"p")


def test_an_error_to_the_older_grab_is_an_error() -> None:
    link = asked()
    for _ in range(2):
        link.received(packet(PacketType.ERROR, b"server_error", b"what?"))
        link.grab()
    with pytest.raises(BadAnswer, match="server_error"):
        link.received(packet(PacketType.ERROR, b"server_error", b"what?"))


@pytest.mark.parametrize("kind", [PacketType.NO_JOB, PacketType.JOB_CREATED])
def test_answers_that_make_no_sense(kind: PacketType) -> None:
    args = [b"x"] if kind is PacketType.JOB_CREATED else []
    with pytest.raises(BadAnswer):
        Link().received(packet(kind, *args))


def test_what_a_function_may_return() -> None:
    assert as_bytes(None) == b""
    assert as_bytes("é") == "é".encode()
    assert as_bytes(b"\0") == b"\0"
    with pytest.raises(TypeError, match="not int"):
        as_bytes(7)  # type: ignore[arg-type]


def test_a_worker_says_what_is_wrong_with_its_settings() -> None:
    with pytest.raises(ValueError, match="blank"):
        Worker(["a"], client_id="two words")
    worker = Worker(["a"])
    with pytest.raises(ValueError, match="timeout_s"):
        worker.register("f", as_bytes, timeout_s=0)  # type: ignore[arg-type]
    worker.close()
