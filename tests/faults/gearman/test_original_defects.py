"""Defects of gearmand that this server does not have, seen from the wire.

Others of them are tested where the behaviour belongs:

- background jobs that are lost with a foreground twin, timed-out jobs that are tried for
  ever, jobs for later that wake nobody, retries of 0 that mean any number, priorities that
  count within a function only: ``unit/gearman/test_dispatch.py``;
- orphans after ``drop function``, cancelled jobs that stay in ``status``, ``maxqueue`` of a
  function that is not there yet: ``unit/gearman/test_admin.py``;
- short packets that are never answered: ``test_faults.py``;
- dead peers that are held for hours: ``test_connections.py``.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from pathlib import Path

import pytest

from lj_services.gearman.protocol import HEADER, request, response
from lj_services.gearman.protocol import PacketType as T
from tests.support.gearman import GearmanServer, Start
from tests.support.process import wait_for

pytestmark = pytest.mark.faults


@pytest.fixture
def server(gearman_server: Start) -> GearmanServer:
    return gearman_server()


@pytest.mark.parametrize("before_the_end", [b"", b"\r"])
def test_a_functions_last_letter_is_not_cut(server: GearmanServer, before_the_end: bytes) -> None:
    with server.connect() as talk:
        assert talk.ask(b"create function bar" + before_the_end) == b"OK\r\n"
        assert talk.ask(b"status" + before_the_end) == b"bar\t0\t0\t0\n.\n"


def test_a_failure_has_nothing_behind_the_handle(server: GearmanServer) -> None:
    """For a client that has not asked for exceptions, one is a plain failure, to the byte."""
    with server.connect() as client, server.connect() as worker:
        worker.send(T.CAN_DO, b"up")
        (handle,) = client.call(T.SUBMIT_JOB, b"up", b"", b"", then=T.JOB_CREATED)
        worker.call(T.GRAB_JOB, then=T.JOB_ASSIGN)
        worker.send(T.WORK_EXCEPTION, handle, b"why")
        worker.settle()
        client.send(T.ECHO_REQ, b"end")
        expected = response(T.WORK_FAIL, handle) + response(T.ECHO_RES, b"end")
        told = b""
        while len(told) < len(expected):
            told += client.socket.recv(100)
        assert told == expected


def test_a_short_packet_does_not_end_the_connection_when_another_follows(
    server: GearmanServer,
) -> None:
    short = HEADER.pack(b"\0REQ", T.SUBMIT_JOB, 0)
    with server.connect() as talk:
        talk.socket.sendall(short + request(T.ECHO_REQ, b"x"))
        talk.expect(T.ERROR, b"INVALID_ARGUMENTS")
        talk.expect(T.ECHO_RES, b"x")


@pytest.mark.parametrize("method", [b"GET", b"TRACE", b"DELETE"])
def test_http_is_answered_and_does_not_hang(server: GearmanServer, method: bytes) -> None:
    with server.connect() as talk:
        assert talk.ask(method + b" /up HTTP/1.1").startswith(b"ERR UNKNOWN_COMMAND ")


def outlive(server: GearmanServer, client_leaves: bool, worker_leaves: bool, late: bool) -> None:
    """A job with a limit of time, whose client or first worker may leave before the limit."""
    with server.connect() as client, server.connect() as first, server.connect() as second:
        first.send(T.CAN_DO_TIMEOUT, b"up", b"1000")
        (handle,) = client.call(T.SUBMIT_JOB, b"up", b"", b"", then=T.JOB_CREATED)
        first.call(T.GRAB_JOB, then=T.JOB_ASSIGN)
        if client_leaves:
            client.socket.close()
            unwanted = handle + b"\t0\t1\t0\n.\n"
            wait_for(lambda: server.ask(b"show jobs") == unwanted, "the client to be missed")
        worker = second if worker_leaves else first
        if worker_leaves:
            first.socket.close()
            second.send(T.CAN_DO_TIMEOUT, b"up", b"1000")
            wait_for(lambda: b"\t0\t1\n" in server.ask(b"status"), "the worker to be missed")
            answer = T.NO_JOB if client_leaves else T.JOB_ASSIGN
            second.call(T.GRAB_JOB, then=answer)
        is_dropped = client_leaves and worker_leaves
        if not late and not is_dropped:
            worker.send(T.WORK_COMPLETE, handle, b"")
        wait_for(lambda: server.ask(b"show jobs") == b".\n", "the job to end")
        if is_dropped:
            worker.call(T.WORK_COMPLETE, handle, b"", then=T.ERROR)
        elif late:
            worker.send(T.WORK_COMPLETE, handle, b"")  # is not answered
        worker.settle()
        if not client_leaves:
            client.expect(T.WORK_FAIL if late else T.WORK_COMPLETE, handle)


def test_a_limit_of_time_harms_nothing_when_all_have_left(server: GearmanServer) -> None:
    for who in itertools.product([False, True], repeat=3):
        outlive(server, *who)
    with server.connect() as client, server.connect() as worker:
        worker.send(T.CAN_DO_TIMEOUT, b"up", b"1000")
        (handle,) = client.call(T.SUBMIT_JOB, b"up", b"", b"", then=T.JOB_CREATED)
        assert worker.call(T.GRAB_JOB, then=T.JOB_ASSIGN)[0] == handle


def test_stored_jobs_need_no_keys_and_stay_dropped(gearman_server: Start, tmp_path: Path) -> None:
    """Two jobs without a key are two jobs; what was dropped or cancelled does not come back."""
    file = tmp_path / "jobs.db"
    store = f"persist.writer='sqlite:///{file}'"
    server = gearman_server(store)
    with server.connect() as client:
        handles = [
            client.call(T.SUBMIT_JOB_BG, name, b"", b"", then=T.JOB_CREATED)[0]
            for name in (b"up", b"up", b"up", b"old", b"old")
        ]
        assert client.ask(b"show jobs").count(b"\t1\n") == len(handles)
        assert client.ask(b"drop function old") == b"OK\r\n"
        assert client.ask(b"cancel job " + handles[0]) == b"OK\r\n"

    def stored() -> int:
        with sqlite3.connect(file) as base:
            (number,) = base.execute("SELECT COUNT(*) FROM gearman_job").fetchone()
        return int(number)

    wait_for(lambda: stored() == 2, "the store to forget them")
    server.running.kill()
    again = gearman_server(store)
    assert again.ask(b"status") == b"up\t2\t0\t0\n.\n"


def test_thousands_of_abilities_let_others_be_served(server: GearmanServer) -> None:
    """While one worker names 20,000 functions, others' jobs are done, and all ends well."""
    with server.connect() as greedy, server.connect() as client, server.connect() as worker:
        many = b"".join(request(T.CAN_DO, b"f%d" % number) for number in range(20_000))
        greedy.socket.setblocking(False)
        worker.send(T.CAN_DO, b"up")
        while many:
            with contextlib.suppress(BlockingIOError):
                many = many[greedy.socket.send(many) :]
            (handle,) = client.call(T.SUBMIT_JOB, b"up", b"", b"", then=T.JOB_CREATED)
            worker.call(T.GRAB_JOB, then=T.JOB_ASSIGN)
            worker.send(T.WORK_COMPLETE, handle, b"")
            client.expect(T.WORK_COMPLETE, handle)
        greedy.socket.settimeout(20)
        greedy.settle()
        assert server.ask(b"status").count(b"\n") == 20_002
