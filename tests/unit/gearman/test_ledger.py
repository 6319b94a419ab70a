"""What is stored when, and who waits for it: without a database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from lj_services.gearman.dispatch import Dispatcher
from lj_services.gearman.jobs import Peer
from lj_services.gearman.ledger import Batch, Ledger
from lj_services.gearman.protocol import LARGE, Line, Magic, Packet, PacketParser
from lj_services.gearman.protocol import PacketType as T
from lj_services.gearman.queues import Queues

pytestmark = pytest.mark.unit


class Box:
    """A server that stores its jobs, without sockets and without a database."""

    def __init__(self) -> None:
        self.queues = Queues("H:box", wall=1000.0)
        self.dispatcher = Dispatcher(self.queues)
        self.waited_for = False
        self.ledger = self.queues.ledger = Ledger(self.changed)
        self.rows: dict[int, tuple[bytes, float]] = {}  # what is stored: data, when it runs

    def changed(self, waited_for: bool) -> None:
        self.waited_for |= waited_for

    def send(self, peer: Peer, kind: T, *args: bytes) -> None:
        self.dispatcher.packet(peer, Packet(Magic.REQUEST, kind, args))

    def cut(self) -> Batch:
        batch = self.ledger.cut()
        for number in batch.gone:
            self.rows.pop(number, None)
        for number, (row, _) in batch.rows.items():
            assert number not in self.rows
            self.rows[number] = row.data, row.run_at
        return batch

    def written(self, batch: Batch, **failed: str) -> dict[Peer, list[tuple[T, bytes]]]:
        """A batch is written; who is told what then."""
        free = self.ledger.settle(batch, {int(name[1:]): why for name, why in failed.items()})
        return {p: list(told(p.take_marked() if p.held else p.take())) for p in free}

    def worker(self, name: bytes) -> Peer:
        worker = Peer()
        self.send(worker, T.CAN_DO, name)
        self.send(worker, T.GRAB_JOB)
        worker.take()
        return worker


def told(raw: bytes) -> Iterator[tuple[T, bytes]]:
    parser = PacketParser(Magic.RESPONSE)
    parser.feed(raw)
    while (packet := parser.next()) is not None:
        assert not isinstance(packet, Line)
        yield packet.type, packet.args[0]


@pytest.fixture
def box() -> Box:
    return Box()


def test_a_client_is_told_when_its_job_is_stored(box: Box) -> None:
    client = Peer()
    box.send(client, T.SUBMIT_JOB_BG, b"up", b"", b"x")
    assert client.held
    assert box.waited_for
    batch = box.cut()
    assert client.held
    assert box.written(batch) == {client: [(T.JOB_CREATED, b"H:box:1")]}
    assert not client.held
    assert box.ledger.idle
    assert box.rows == {1: (b"x", 0.0)}


def test_answers_keep_their_order(box: Box) -> None:
    client = Peer()
    box.send(client, T.SUBMIT_JOB_BG, b"up", b"", b"x")
    box.send(client, T.SUBMIT_JOB, b"up", b"", b"y")
    box.send(client, T.ECHO_REQ, b"z")
    assert box.written(box.cut())[client] == [
        (T.JOB_CREATED, b"H:box:1"),
        (T.JOB_CREATED, b"H:box:2"),
        (T.ECHO_RES, b"z"),
    ]


def test_a_client_that_goes_on_submitting_hears_of_each_batch(box: Box) -> None:
    client = Peer()
    box.send(client, T.SUBMIT_JOB_BG, b"up", b"", b"x")
    first = box.cut()
    box.send(client, T.SUBMIT_JOB_BG, b"up", b"", b"y")
    assert box.written(first)[client] == [(T.JOB_CREATED, b"H:box:1")]
    assert client.held
    assert box.written(box.cut())[client] == [(T.JOB_CREATED, b"H:box:2")]
    assert not client.held


def test_foreground_jobs_are_not_stored(box: Box) -> None:
    client = Peer()
    box.send(client, T.SUBMIT_JOB, b"up", b"", b"x")
    assert not client.held
    assert box.ledger.idle


def test_a_job_that_is_done_before_it_is_written_is_not_written(box: Box) -> None:
    client, worker = Peer(), box.worker(b"up")
    box.send(client, T.SUBMIT_JOB_BG, b"up", b"", b"x")
    box.send(worker, T.GRAB_JOB)
    box.send(worker, T.WORK_COMPLETE, b"H:box:1", b"")
    batch = box.cut()
    assert (batch.rows, batch.gone) == ({}, {})
    assert box.written(batch) == {client: [(T.JOB_CREATED, b"H:box:1")]}


@pytest.mark.parametrize("when", ["while it is written", "later"])
def test_a_job_that_is_done_is_forgotten(box: Box, when: str) -> None:
    client, worker = Peer(), box.worker(b"up")
    box.send(client, T.SUBMIT_JOB_BG, b"up", b"", b"x")
    batch = box.cut()
    if when == "later":
        box.written(batch)
    box.send(worker, T.GRAB_JOB)
    box.waited_for = False
    box.send(worker, T.WORK_COMPLETE, b"H:box:1", b"")
    assert not box.waited_for
    if when != "later":
        box.written(batch)
    assert box.rows
    box.cut()
    assert not box.rows


def test_a_foreground_job_that_is_submitted_in_the_background_is_stored_then(box: Box) -> None:
    first, second = Peer(), Peer()
    box.send(first, T.SUBMIT_JOB, b"up", b"k", b"x")
    box.send(second, T.SUBMIT_JOB_BG, b"up", b"k", b"y")
    assert (first.held, second.held) == (False, True)
    box.written(box.cut())
    assert box.rows == {1: (b"x", 0.0)}


@pytest.mark.parametrize("when", ["before it is written", "while it is written"])
def test_who_joins_a_job_waits_until_it_is_stored(box: Box, when: str) -> None:
    first, second = Peer(), Peer()
    box.send(first, T.SUBMIT_JOB_BG, b"up", b"k", b"x")
    if when == "before it is written":
        box.send(second, T.SUBMIT_JOB_BG, b"up", b"k", b"y")
        batch = box.cut()
    else:
        batch = box.cut()
        box.send(second, T.SUBMIT_JOB_BG, b"up", b"k", b"y")
    assert second.held
    box.written(batch)
    box.written(box.cut())
    assert not second.held
    third = Peer()
    box.send(third, T.SUBMIT_JOB_BG, b"up", b"k", b"z")
    assert not third.held
    assert box.rows == {1: (b"x", 0.0)}


@pytest.mark.parametrize("when", ["before it is written", "while it is written", "later"])
def test_an_earlier_time_is_stored(box: Box, when: str) -> None:
    client = Peer()
    box.send(client, T.SUBMIT_JOB_EPOCH, b"up", b"k", b"3000", b"x")
    batch = box.cut() if when != "before it is written" else None
    if batch is not None and when == "later":
        box.written(batch)
    box.send(client, T.SUBMIT_JOB_EPOCH, b"up", b"k", b"2000", b"x")
    if batch is not None and when != "later":
        box.written(batch)
    box.written(box.cut())
    assert box.rows == {1: (b"x", 2000.0)}


def test_a_job_that_could_not_be_stored_is_given_up(box: Box) -> None:
    client, waiter = Peer(), Peer()
    box.send(client, T.SUBMIT_JOB_BG, b"up", b"k", b"x")
    box.send(client, T.SUBMIT_JOB_BG, b"up", b"", b"y")
    box.send(waiter, T.SUBMIT_JOB, b"up", b"k", b"z")
    batch = box.cut()
    assert box.written(batch, n1="no room")[client] == [
        (T.ERROR, b"QUEUE_ERROR"),
        (T.JOB_CREATED, b"H:box:2"),
    ]
    box.queues.not_stored(b"H:box:1")
    assert list(told(waiter.take())) == [
        (T.JOB_CREATED, b"H:box:1"),
        (T.WORK_FAIL, b"H:box:1"),
    ]
    assert list(box.queues.jobs) == [b"H:box:2"]
    assert list(box.cut().gone) == [1]  # nobody knows whether it is there


def test_stored_jobs_come_back(box: Box) -> None:
    client = Peer()
    box.send(client, T.SUBMIT_JOB_HIGH_BG, b"up", b"k", b"x")
    box.send(client, T.SUBMIT_JOB_EPOCH, b"up", b"", b"2000", b"y")
    box.send(client, T.SUBMIT_REDUCE_JOB_BACKGROUND, b"up", b"", b"sum", b"", b"z")
    rows = [row for row, _ in box.cut().rows.values()]
    again = Box()
    for row in rows:
        again.queues.restore(row)
    function = again.queues.functions[b"up"]
    assert [job.data for job in function.queued()] == [b"x", b"z"]
    assert [job.run_at for job in function.scheduled.values()] == [2000.0]
    assert [job.reducer for job in again.queues.jobs.values()] == [None, None, b"sum"]
    assert again.ledger.idle
    joined = Peer()
    again.send(joined, T.SUBMIT_JOB, b"up", b"k", b"")
    again.send(joined, T.SUBMIT_JOB, b"up", b"", b"")
    assert list(told(joined.take())) == [
        (T.JOB_CREATED, b"H:box:1"),
        (T.JOB_CREATED, b"H:box:4"),
    ]
    assert again.queues.data_bytes == 3


def test_large_data_waits_with_an_error_behind_it(box: Box) -> None:
    """A client's outbox may hold what is large and no bytes, beside the job not stored."""
    client = Peer()
    large = bytearray(LARGE)
    box.dispatcher.packet(client, Packet(Magic.REQUEST, T.ECHO_REQ, (cast(bytes, large),)))
    box.send(client, T.SUBMIT_JOB_BG, b"up", b"", b"1")
    answers = box.written(box.cut(), _1="no room")[client]
    assert [kind for kind, _ in answers] == [T.ECHO_RES, T.ERROR]
