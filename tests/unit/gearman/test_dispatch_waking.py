"""Which sleeping worker is woken, and when, without sockets."""

from __future__ import annotations

from datetime import datetime

import pytest

from lj_services.gearman.protocol import PacketType as T
from tests.support.dispatcher import Box, got

pytestmark = pytest.mark.unit


@pytest.fixture
def box() -> Box:
    return Box()


def test_as_many_are_woken_as_there_are_jobs(box: Box) -> None:
    client, workers = box.peer(), [box.worker(b"up") for _ in range(3)]
    for worker in workers:
        assert box.send(worker, T.PRE_SLEEP) == []
    box.submit(client, T.SUBMIT_JOB, b"up", b"", b"")
    assert [len(got(worker)) for worker in workers] == [1, 0, 0]
    box.submit(client, T.SUBMIT_JOB, b"up", b"", b"")
    assert [len(got(worker)) for worker in workers] == [0, 1, 0]
    assert box.send(workers[0], T.GRAB_JOB)[0][0] is T.JOB_ASSIGN
    assert box.send(workers[1], T.GRAB_JOB)[0][0] is T.JOB_ASSIGN
    assert got(workers[2]) == []


def test_who_goes_to_sleep_while_a_job_waits_is_woken_at_once(box: Box) -> None:
    client, worker = box.peer(), box.worker(b"up")
    box.submit(client, T.SUBMIT_JOB, b"up", b"", b"")
    assert box.send(worker, T.PRE_SLEEP) == [(T.NOOP, ())]


def test_another_is_woken_for_one_that_does_not_come(box: Box) -> None:
    client, slow, dead, second = box.peer(), *(box.worker(b"up") for _ in range(3))
    for worker in (slow, dead, second):
        box.send(worker, T.PRE_SLEEP)
    box.submit(client, T.SUBMIT_JOB, b"up", b"", b"")
    assert len(got(slow)) == 1
    box.at(1.5)
    assert len(got(dead)) == 1
    assert got(second) == []
    box.queues.leave(dead)
    assert len(got(second)) == 1


def test_another_is_woken_when_the_first_takes_something_else(box: Box) -> None:
    client, both, second = box.peer(), box.worker(b"a", b"b"), box.worker(b"a")
    for worker in (both, second):
        box.send(worker, T.PRE_SLEEP)
    box.submit(client, T.SUBMIT_JOB, b"a", b"", b"")
    assert len(got(both)) == 1
    box.submit(client, T.SUBMIT_JOB_HIGH, b"b", b"", b"")
    assert box.send(both, T.GRAB_JOB)[0][1][1] == b"b"
    assert got(second) == [(T.NOOP, ())]


def test_a_job_for_later_wakes_a_worker_when_its_time_has_come(box: Box) -> None:
    client, worker = box.peer(), box.worker(b"up")
    box.submit(client, T.SUBMIT_JOB_EPOCH, b"up", b"", b"1010", b"x")
    box.queues.leave(client)
    assert box.send(worker, T.GRAB_JOB) == [(T.NO_JOB, ())]
    assert box.send(worker, T.PRE_SLEEP) == []
    box.at(9.9)
    assert got(worker) == []
    box.at(10)
    assert got(worker) == [(T.NOOP, ())]
    assert box.send(worker, T.GRAB_JOB)[0][1][2] == b"x"


def test_a_job_for_later_is_done_now_if_somebody_wants_it_now(box: Box) -> None:
    client, worker = box.peer(), box.worker(b"up")
    handle = box.submit(client, T.SUBMIT_JOB_EPOCH, b"up", b"k", b"9999", b"x")
    assert box.submit(client, T.SUBMIT_JOB, b"up", b"k", b"y") == handle
    assert box.send(worker, T.GRAB_JOB)[0][1] == (handle, b"up", b"x")


def test_a_job_for_a_minute_of_the_hour_wakes_a_worker_then(box: Box) -> None:
    worker = box.worker(b"up")
    box.send(worker, T.PRE_SLEEP)
    minute = b"%d" % datetime.fromtimestamp(1000.0 + 120).minute
    handle = box.submit(box.peer(), T.SUBMIT_JOB_SCHED, b"up", b"", minute, *[b"*"] * 4, b"x")
    first = 1000.0 + 120 - (1000.0 + 120) % 60
    box.at(first - 1000.0 - 0.1)
    assert got(worker) == []
    box.at(first - 1000.0)
    assert got(worker) == [(T.NOOP, ())]
    assert box.send(worker, T.GRAB_JOB) == [(T.JOB_ASSIGN, (handle, b"up", b"x"))]
    box.send(worker, T.WORK_COMPLETE, handle, b"")
    box.at(first - 1000.0 + 3600)
    assert not box.queues.jobs
