"""The administrator's commands, to the byte."""

from __future__ import annotations

import os

import pytest

from lj_services.gearman.admin import Admin
from lj_services.gearman.jobs import Peer, Priority
from lj_services.gearman.protocol import PacketType, response
from lj_services.gearman.queues import Queues

pytestmark = pytest.mark.unit


class Box:
    def __init__(self, *, may_shut_down: bool = True) -> None:
        self.queues = Queues("H:box")
        self.worker = Peer(7, "10.0.0.7")
        self.client = Peer(8, "10.0.0.8")
        self.ended: list[bool] = []
        self.admin = Admin(
            self.queues,
            lambda: [self.worker, self.client],
            version="lj-9",
            log_level=lambda: "info",
            shutdown=self.ended.append if may_shut_down else None,
        )
        self.queues.can_do(self.worker, b"up")
        self.queues.can_do(self.worker, b"down")

    def submit(self, name: bytes, priority: Priority = Priority.NORMAL, **how: bool) -> bytes:
        return self.queues.submit(self.client, name, b"k", b"", priority, **how).handle


@pytest.fixture
def box() -> Box:
    return Box()


def test_small_questions(box: Box) -> None:
    assert box.admin.answer(b"version") == b"OK lj-9\n"
    assert box.admin.answer(b"VERSION") == b"OK lj-9\n"
    assert box.admin.answer(b"verbose") == b"OK INFO\n"
    assert box.admin.answer(b"getpid") == b"OK %d\n" % os.getpid()
    assert box.admin.answer(b"") == b""


def test_status(box: Box) -> None:
    box.submit(b"up")
    box.submit(b"up2", Priority.HIGH)
    box.submit(b"down", Priority.LOW)
    assert box.queues.grab(box.worker) is not None
    assert box.admin.answer(b"status") == b"up\t1\t1\t1\ndown\t1\t0\t1\nup2\t1\t0\t0\n.\n"
    assert box.admin.answer(b"prioritystatus") == (
        b"up\t0\t0\t0\t1\ndown\t0\t0\t1\t1\nup2\t1\t0\t0\t0\n.\n"
    )


def test_jobs_for_later_count(box: Box) -> None:
    box.queues.submit(None, b"up", b"", b"", run_at=99.0)
    assert box.admin.answer(b"status") == b"up\t1\t0\t1\ndown\t0\t0\t1\n.\n"
    assert box.admin.answer(b"prioritystatus") == b"up\t0\t1\t0\t1\ndown\t0\t0\t0\t1\n.\n"


def test_workers(box: Box) -> None:
    box.worker.client_id = b"w1"
    assert box.admin.answer(b"workers") == b"7 10.0.0.7 w1 : down up\n8 10.0.0.8 - :\n.\n"


def test_show(box: Box) -> None:
    first, second = box.submit(b"up"), box.submit(b"down")
    assert box.queues.grab(box.worker) is not None
    box.queues.leave(box.client)
    assert box.admin.answer(b"show jobs") == first + b"\t0\t1\t0\n.\n"  # runs, unwanted
    box.queues.submit(None, b"down", b"key", b"")
    assert box.admin.answer(b"show unique jobs") == b"k\nkey\n.\n"
    assert box.admin.answer(b"show x") == b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"
    assert second not in box.admin.answer(b"show jobs")


def test_create_and_drop(box: Box) -> None:
    assert box.admin.answer(b"create function bar") == b"OK\r\n"
    assert b"bar" in box.queues.functions
    assert box.admin.answer(b"drop function nix") == b"ERR function not found\r\n"
    assert box.admin.answer(b"drop function up") == (
        b"ERR there are still connected workers or executing clients\r\n"
    )
    handle = box.submit(b"bar")
    box.client.take()
    assert box.admin.answer(b"drop function bar") == b"OK\r\n"
    assert box.client.take() == response(PacketType.WORK_FAIL, handle)
    assert not box.queues.jobs
    assert box.admin.answer(b"show jobs") == b".\n"


def test_cancel(box: Box) -> None:
    handle, running = box.submit(b"down"), box.submit(b"up", Priority.HIGH)
    assert box.queues.grab(box.worker) is not None
    box.client.take()
    assert box.admin.answer(b"cancel job " + handle) == b"OK\r\n"
    assert box.client.take() == response(PacketType.WORK_FAIL, handle)
    assert box.admin.answer(b"cancel job " + handle) == b"ERR UNKNOWN_JOB\r\n"
    assert box.admin.answer(b"cancel job " + running) == b"ERR UNKNOWN_JOB\r\n"
    assert box.queues.functions[b"down"].total == 0


def test_max_queue(box: Box) -> None:
    limits = box.queues.functions[b"up"]
    assert box.admin.answer(b"maxqueue up 5") == b"OK\r\n"
    assert limits.max_queue == [5, 5, 5]
    assert box.admin.answer(b"maxqueue up 1 2 3") == b"OK\r\n"
    assert limits.max_queue == [1, 2, 3]
    assert box.admin.answer(b"maxqueue up") == b"OK\r\n"
    assert limits.max_queue == [0, 0, 0]
    assert box.admin.answer(b"maxqueue new 4") == b"OK\r\n"
    assert box.queues.functions[b"new"].max_queue == [4, 4, 4]
    for wrong in (b"maxqueue", b"maxqueue up 1 2", b"maxqueue up many"):
        assert box.admin.answer(wrong).startswith(b"ERR INVALID_ARGUMENTS ")


def test_shutdown(box: Box) -> None:
    assert box.admin.answer(b"shutdown") == b"OK\r\n"
    assert box.admin.answer(b"shutdown graceful") == b"OK\r\n"
    assert box.admin.answer(b"shutdown soon").startswith(b"ERR INVALID_ARGUMENTS ")
    assert box.ended == [False, True]
    told = Box(may_shut_down=False).admin.answer(b"shutdown")
    assert told.startswith(b"ERR NOT_ALLOWED shutdown_command+is+off")


def test_what_is_not_known(box: Box) -> None:
    assert box.admin.answer(b"hello") == b"ERR UNKNOWN_COMMAND Unknown+server+commandhello\r\n"
    assert box.admin.answer(b"drop function") == (
        b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+drop\r\n"
    )
