"""What the server does with each packet, without sockets."""

from __future__ import annotations

import pytest

from lj_services.gearman.protocol import PacketType as T
from lj_services.gearman.rules import Rules
from tests.support.dispatcher import Box, got

pytestmark = pytest.mark.unit


@pytest.fixture
def box() -> Box:
    return Box()


def test_a_job_from_call_to_result(box: Box) -> None:
    client, worker = box.peer(), box.worker(b"up")
    handle = box.submit(client, T.SUBMIT_JOB, b"up", b"", b"a\0b")
    assert handle == b"H:box:1"
    assert box.send(worker, T.GRAB_JOB) == [(T.JOB_ASSIGN, (handle, b"up", b"a\0b"))]
    box.send(worker, T.WORK_STATUS, handle, b"1", b"2")
    box.send(worker, T.WORK_DATA, handle, b"part")
    box.send(worker, T.WORK_WARNING, handle, b"oh")
    assert box.send(client, T.GET_STATUS, handle) == [
        (T.WORK_STATUS, (handle, b"1", b"2")),
        (T.WORK_DATA, (handle, b"part")),
        (T.WORK_WARNING, (handle, b"oh")),
        (T.STATUS_RES, (handle, b"1", b"1", b"1", b"2")),
    ]
    assert box.send(worker, T.WORK_COMPLETE, handle, b"A\0B") == []
    assert got(client) == [(T.WORK_COMPLETE, (handle, b"A\0B"))]
    assert box.send(client, T.GET_STATUS, handle)[0][1] == (handle, b"0", b"0", b"0", b"0")
    assert box.send(worker, T.GRAB_JOB) == [(T.NO_JOB, ())]
    assert not box.queues.jobs


@pytest.mark.parametrize(
    ("round_robin", "equals"),
    [(True, [b"a1", b"b1", b"a2", b"b2"]), (False, [b"a1", b"a2", b"b1", b"b2"])],
)
def test_priorities_over_all_functions_and_turns_among_equals(
    round_robin: bool, equals: list[bytes]
) -> None:
    box = Box(Rules(round_robin=round_robin))
    client, worker = box.peer(), box.worker(b"a", b"b")
    order = [
        (T.SUBMIT_JOB_LOW_BG, b"a", b"low"),
        (T.SUBMIT_JOB_BG, b"a", b"a1"),
        (T.SUBMIT_JOB_BG, b"a", b"a2"),
        (T.SUBMIT_JOB_BG, b"b", b"b1"),
        (T.SUBMIT_JOB_BG, b"b", b"b2"),
        (T.SUBMIT_JOB_HIGH_BG, b"b", b"high"),
    ]
    for kind, name, data in order:
        box.submit(client, kind, name, b"", data)
    given = [box.send(worker, T.GRAB_JOB)[0][1][2] for _ in order]
    assert given == [b"high", *equals, b"low"]


def test_submissions_with_one_key_share_a_job(box: Box) -> None:
    first, second, worker = box.peer(), box.peer(), box.worker(b"up")
    handle = box.submit(first, T.SUBMIT_JOB, b"up", b"k", b"one")
    assert box.submit(second, T.SUBMIT_JOB, b"up", b"k", b"two") == handle
    assert box.submit(second, T.SUBMIT_JOB, b"down", b"k", b"two") != handle
    assert box.send(worker, T.GRAB_JOB_UNIQ)[0][1] == (handle, b"up", b"k", b"one")
    assert box.submit(second, T.SUBMIT_JOB, b"up", b"k", b"three") == handle
    assert box.send(first, T.GET_STATUS_UNIQUE, b"k") == [
        (T.STATUS_RES_UNIQUE, (b"k", b"1", b"1", b"0", b"0", b"3"))
    ]
    box.send(worker, T.WORK_COMPLETE, handle, b"r")
    done = (T.WORK_COMPLETE, (handle, b"r"))
    assert got(first) == [done]
    assert got(second) == [done, done]  # once for each submission
    assert box.submit(first, T.SUBMIT_JOB, b"up", b"k", b"again") != handle


def test_a_dash_means_that_the_data_is_the_key(box: Box) -> None:
    client = box.peer()
    handle = box.submit(client, T.SUBMIT_JOB, b"up", b"-", b"x")
    assert box.submit(client, T.SUBMIT_JOB, b"up", b"-", b"x") == handle
    assert box.submit(client, T.SUBMIT_JOB, b"up", b"-", b"y") != handle
    empty = box.submit(client, T.SUBMIT_JOB, b"up", b"-", b"")
    assert box.submit(client, T.SUBMIT_JOB, b"up", b"-", b"") != empty
    none = box.submit(client, T.SUBMIT_JOB, b"up", b"", b"x")
    assert box.submit(client, T.SUBMIT_JOB, b"up", b"", b"x") != none


def test_jobs_that_nobody_waits_for_are_dropped(box: Box) -> None:
    client = box.peer()
    box.submit(client, T.SUBMIT_JOB, b"up", b"", b"")
    box.queues.leave(client)
    assert not box.queues.jobs
    assert box.queues.functions[b"up"].total == 0


@pytest.mark.parametrize("order", [0, 1], ids=["background first", "foreground first"])
def test_a_background_job_outlives_its_foreground_twin(box: Box, order: int) -> None:
    worker = box.worker(b"up")
    twins = [(T.SUBMIT_JOB_BG, box.peer()), (T.SUBMIT_JOB, box.peer())]
    for kind, peer in twins[order:] + twins[:order]:
        box.submit(peer, kind, b"up", b"k", b"data")
    box.queues.leave(twins[1][1])
    box.queues.leave(twins[0][1])
    [(kind, args)] = box.send(worker, T.GRAB_JOB)
    assert (kind, args[2]) == (T.JOB_ASSIGN, b"data")


def test_a_lost_workers_job_goes_to_another(box: Box) -> None:
    client, first, second = box.peer(), box.worker(b"up"), box.worker(b"up")
    handle = box.submit(client, T.SUBMIT_JOB, b"up", b"", b"x")
    box.send(first, T.GRAB_JOB)
    box.send(first, T.WORK_STATUS, handle, b"1", b"2")
    assert box.send(second, T.PRE_SLEEP) == []
    box.queues.leave(first)
    assert got(second) == [(T.NOOP, ())]
    assert box.send(client, T.GET_STATUS, handle)[-1][1] == (handle, b"1", b"0", b"0", b"0")
    assert box.send(second, T.GRAB_JOB)[0][1] == (handle, b"up", b"x")


@pytest.mark.parametrize("retries", [0, 2])
def test_a_job_is_given_up_after_its_retries(retries: int) -> None:
    box = Box(Rules(job_retries=retries))
    client = box.peer()
    handle = box.submit(client, T.SUBMIT_JOB, b"up", b"", b"")
    for _ in range(retries + 1):
        assert got(client) == []
        worker = box.worker(b"up")
        assert box.send(worker, T.GRAB_JOB)[0][0] is T.JOB_ASSIGN
        box.queues.leave(worker)
    assert got(client) == [(T.WORK_FAIL, (handle,))]
    assert not box.queues.jobs


def test_a_job_that_takes_too_long_fails(box: Box) -> None:
    client, worker = box.peer(), box.peer()
    box.send(worker, T.CAN_DO_TIMEOUT, b"up", b"5000")
    handle = box.submit(client, T.SUBMIT_JOB, b"up", b"", b"")
    box.send(worker, T.GRAB_JOB)
    box.at(4.9)
    assert got(client) == []
    box.at(5.0)
    assert got(client) == [(T.WORK_FAIL, (handle,))]
    # Perl's workers would not outlive an error that they don't expect.
    for kind, args in (
        (T.WORK_STATUS, (b"1", b"2")),
        (T.WORK_DATA, (b"late",)),
        (T.WORK_COMPLETE, (b"late",)),
        (T.WORK_FAIL, ()),
        (T.WORK_EXCEPTION, (b"late",)),
    ):
        assert box.send(worker, kind, handle, *args) == []
    assert got(client) == []
    assert box.send(box.peer(), T.WORK_FAIL, handle)[0][1][0] == b"JOB_NOT_FOUND"


@pytest.mark.parametrize("limit", [b"2", b"3000"])
def test_limits_in_seconds_and_in_milliseconds(box: Box, limit: bytes) -> None:
    """Perl's workers send seconds, and end the job themselves before the server does; a thousand
    and more are milliseconds."""
    client, worker = box.peer(), box.peer()
    box.send(worker, T.CAN_DO_TIMEOUT, b"up", limit)
    handle = box.submit(client, T.SUBMIT_JOB, b"up", b"", b"")
    box.send(worker, T.GRAB_JOB)
    box.at(2.9)
    assert got(client) == []
    box.at(3.0)
    assert got(client) == [(T.WORK_FAIL, (handle,))]


def test_a_job_that_takes_too_long_is_retried() -> None:
    box = Box(Rules(on_timeout="retry", job_retries=1))
    client, worker = box.peer(), box.peer()
    box.send(worker, T.CAN_DO_TIMEOUT, b"up", b"1")
    handle = box.submit(client, T.SUBMIT_JOB, b"up", b"", b"")
    for start in (0, 10):
        assert box.send(worker, T.GRAB_JOB)[0][0] is T.JOB_ASSIGN
        box.at(start + 0.9)
        assert box.send(worker, T.GRAB_JOB) == [(T.NO_JOB, ())]
        assert got(client) == []
        box.at(start + 10)
    assert got(client) == [(T.WORK_FAIL, (handle,))]


def test_a_job_that_ended_in_time_does_not_fail_later(box: Box) -> None:
    client, worker = box.peer(), box.peer()
    box.send(worker, T.CAN_DO_TIMEOUT, b"up", b"1000")
    handle = box.submit(client, T.SUBMIT_JOB, b"up", b"", b"")
    box.send(worker, T.GRAB_JOB)
    box.send(worker, T.WORK_COMPLETE, handle, b"")
    box.at(60)
    assert [kind for kind, _ in got(client)] == [T.WORK_COMPLETE]


def test_exceptions_are_told_to_those_who_ask(box: Box) -> None:
    asks, other, worker = box.peer(), box.peer(), box.worker(b"up")
    assert box.send(asks, T.OPTION_REQ, b"exceptions") == [(T.OPTION_RES, (b"exceptions",))]
    assert box.send(asks, T.OPTION_REQ, b"x")[0][1][0] == b"UNKNOWN_OPTION"
    handle = box.submit(asks, T.SUBMIT_JOB, b"up", b"k", b"")
    box.submit(other, T.SUBMIT_JOB, b"up", b"k", b"")
    box.send(worker, T.GRAB_JOB)
    assert box.send(worker, T.WORK_EXCEPTION, handle, b"why") == []
    assert got(asks) == [(T.WORK_EXCEPTION, (handle, b"why"))]
    assert got(other) == [(T.WORK_FAIL, (handle,))]
    assert box.send(worker, T.WORK_FAIL, handle) == []  # as Perl's workers do
    assert box.send(worker, T.WORK_FAIL, b"H:box:99")[0][1][0] == b"JOB_NOT_FOUND"


def test_only_the_worker_that_has_a_job_may_report_on_it(box: Box) -> None:
    client, worker, thief = box.peer(), box.worker(b"up"), box.worker(b"up")
    handle = box.submit(client, T.SUBMIT_JOB, b"up", b"", b"")
    box.send(worker, T.GRAB_JOB)
    for kind, rest in (
        (T.WORK_COMPLETE, (b"",)),
        (T.WORK_FAIL, ()),
        (T.WORK_DATA, (b"",)),
        (T.WORK_WARNING, (b"",)),
        (T.WORK_STATUS, (b"1", b"1")),
        (T.WORK_EXCEPTION, (b"",)),
    ):
        assert box.send(thief, kind, handle, *rest)[0][1][0] == b"JOB_NOT_FOUND"
    assert got(client) == []


def test_reducers(box: Box) -> None:
    client, worker = box.peer(), box.worker(b"map")
    handle = box.submit(client, T.SUBMIT_REDUCE_JOB, b"map", b"k", b"sum", b"", b"x")
    assert box.send(worker, T.GRAB_JOB_ALL) == [
        (T.JOB_ASSIGN_ALL, (handle, b"map", b"k", b"sum", b"x"))
    ]
    plain = box.submit(client, T.SUBMIT_JOB, b"map", b"p", b"x")
    assert box.send(worker, T.GRAB_JOB_ALL) == [(T.JOB_ASSIGN_UNIQ, (plain, b"map", b"p", b"x"))]


@pytest.mark.parametrize(
    ("kind", "args", "code"),
    [
        (T.ALL_YOURS, (), b"INVALID_COMMAND"),
        (T.SUBMIT_JOB_SCHED, (b"up", b"", b"60", b"", b"", b"", b"", b""), b"INVALID_ARGUMENTS"),
        (T.SUBMIT_JOB_SCHED, (b"up", b"", b"", b"", b"31", b"2", b"", b""), b"INVALID_ARGUMENTS"),
        (T.SUBMIT_JOB, (b"", b"", b""), b"INVALID_FUNCTION_NAME"),
        (T.SUBMIT_JOB, (b"a\nb", b"", b""), b"INVALID_FUNCTION_NAME"),
        (T.CAN_DO, (b"x" * 513,), b"INVALID_FUNCTION_NAME"),
        (T.CAN_DO_TIMEOUT, (b"up", b"soon"), b"INVALID_ARGUMENTS"),
        (T.SUBMIT_JOB_EPOCH, (b"up", b"", b"9" * 5000, b""), b"INVALID_ARGUMENTS"),
        (T.SUBMIT_JOB, (b"up", b"k" * 65, b""), b"ARGUMENT_TOO_LARGE"),
    ],
)
def test_what_can_not_be_done_is_answered(
    box: Box, kind: T, args: tuple[bytes, ...], code: bytes
) -> None:
    [(answer, (told, _))] = box.send(box.peer(), kind, *args)
    assert (answer, told) == (T.ERROR, code)
    assert not box.queues.jobs


def test_full_queues_refuse_but_let_join(box: Box) -> None:
    client = box.peer()
    handle = box.submit(client, T.SUBMIT_JOB, b"up", b"k", b"")
    box.queues.functions[b"up"].max_queue = [1, 1, 2]
    assert box.send(client, T.SUBMIT_JOB, b"up", b"", b"")[0][1] == (
        b"QUEUE_ERROR",
        b"Job queue is full",
    )
    assert box.submit(client, T.SUBMIT_JOB, b"up", b"k", b"") == handle
    box.submit(client, T.SUBMIT_JOB_LOW, b"up", b"", b"")
    assert box.send(client, T.SUBMIT_JOB_LOW, b"up", b"", b"")[0][0] is T.ERROR


def test_data_is_bounded() -> None:
    box = Box(Rules(max_data=10))
    client = box.peer()
    box.submit(client, T.SUBMIT_JOB, b"up", b"", bytes(6))
    assert box.send(client, T.SUBMIT_JOB, b"up", b"", bytes(6))[0][1][0] == b"QUEUE_ERROR"
    box.queues.leave(client)
    box.submit(box.peer(), T.SUBMIT_JOB, b"up", b"", bytes(6))


def test_abilities_come_and_go(box: Box) -> None:
    client, worker = box.peer(), box.worker(b"a", b"b")
    box.submit(client, T.SUBMIT_JOB_BG, b"a", b"", b"")
    box.submit(client, T.SUBMIT_JOB_BG, b"b", b"", b"")
    box.send(worker, T.CANT_DO, b"a")
    assert box.send(worker, T.GRAB_JOB)[0][1][1] == b"b"
    assert box.send(worker, T.GRAB_JOB) == [(T.NO_JOB, ())]
    box.send(worker, T.PRE_SLEEP)
    assert box.send(worker, T.CAN_DO, b"a") == [(T.NOOP, ())]
    box.send(worker, T.RESET_ABILITIES)
    assert box.send(worker, T.GRAB_JOB) == [(T.NO_JOB, ())]


def test_a_closing_server_neither_takes_nor_gives(box: Box) -> None:
    client, worker = box.peer(), box.worker(b"up")
    box.submit(client, T.SUBMIT_JOB, b"up", b"", b"")
    box.dispatcher.closing = True
    assert box.send(client, T.SUBMIT_JOB, b"up", b"", b"")[0][1][0] == b"SHUTTING_DOWN"
    assert box.send(worker, T.GRAB_JOB) == [(T.NO_JOB, ())]
