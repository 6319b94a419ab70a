"""Background jobs that are stored: no acknowledged one is lost, whatever happens to the server."""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from lj_services.gearman.protocol import Line, Magic, PacketParser, request
from lj_services.gearman.protocol import PacketType as T
from tests.support.gearman import GearmanServer, Start
from tests.support.mariadb import MariaDB
from tests.support.process import wait_for

pytestmark = pytest.mark.faults

SUBMITTERS = 4
WINDOW = 20
MOST_JOBS = 500
"""Of a submitter: then it waits until the server is killed."""
ROUNDS = 3


@pytest.fixture(params=["sqlite", "mariadb"])
def persist(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A setting: jobs are stored in a fresh database."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path}/jobs.db"
        else:
            server: MariaDB = request.getfixturevalue("mariadb")
            url = stack.enter_context(server.database("lj_gearman"))
        yield f"persist.writer={url!r}"


class Submitter:
    """Submits background jobs until the server is gone, and keeps account of what it is told."""

    def __init__(self, server: GearmanServer, name: str) -> None:
        self.acknowledged: list[bytes] = []
        self._name = name
        self._socket = server.connect().socket
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._socket.close()

    def _run(self) -> None:
        parser = PacketParser(Magic.RESPONSE)
        waiting: list[bytes] = []
        number = 0
        try:
            while True:
                while len(waiting) < WINDOW and number < MOST_JOBS:
                    data = f"{self._name}:{number}".encode()
                    self._socket.sendall(request(T.SUBMIT_JOB_BG, b"up", b"", data))
                    waiting.append(data)
                    number += 1
                more = self._socket.recv(1 << 16)
                if not more:
                    return
                parser.feed(more)
                while (packet := parser.next()) is not None:
                    assert not isinstance(packet, Line)
                    assert packet.type is T.JOB_CREATED
                    self.acknowledged.append(waiting.pop(0))
        except ConnectionError:
            return


class Doer:
    """Does so many jobs, or all that there are, and then waits until the server is gone.

    Args:
        server: that it works for.
        most: jobs; None: all, and then it ends.
    """

    def __init__(self, server: GearmanServer, most: int | None = None) -> None:
        self.done: list[bytes] = []
        self._talk = server.connect()
        self._most = most
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._talk.socket.close()

    def _run(self) -> None:
        try:
            self._talk.send(T.CAN_DO, b"up")
            while self._most is None or len(self.done) < self._most:
                self._talk.send(T.GRAB_JOB)
                got = self._talk.read()
                if got.type is T.JOB_ASSIGN:
                    self.done.append(got.args[2])
                    self._talk.send(T.WORK_COMPLETE, got.args[0], b"")
                elif self._most is None:
                    return
            assert self._talk.closed
        except (ConnectionError, AssertionError):
            return  # the server was killed


def test_no_acknowledged_job_is_lost_when_the_server_is_killed(
    gearman_server: Start, persist: str
) -> None:
    acknowledged: list[bytes] = []
    done: list[bytes] = []
    for round_number in range(ROUNDS):
        server = gearman_server(persist)
        submitters = [Submitter(server, f"{round_number}:{n}") for n in range(SUBMITTERS)]
        doer = Doer(server, most=100)
        goal = 50 * (round_number + 1)

        def enough(all_of: Sequence[Submitter] = submitters, goal: int = goal) -> bool:
            return all(len(one.acknowledged) > goal for one in all_of)

        wait_for(enough, "jobs to be acknowledged", timeout_s=60)
        server.running.kill()
        for one in [*submitters, doer]:
            one.join()
        acknowledged += [data for one in submitters for data in one.acknowledged]
        done += doer.done
    last = Doer(gearman_server(persist))
    last.join()
    done += last.done
    assert set(acknowledged) <= set(done)
    assert last.done, "nothing was left to be done: the test has not tested much"


def test_a_job_is_acknowledged_when_it_is_stored(gearman_server: Start, tmp_path: Path) -> None:
    server = gearman_server(f"persist.writer='sqlite:///{tmp_path}/jobs.db'")
    with server.connect() as client, server.connect() as other:
        blocker = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        client.send(T.SUBMIT_JOB_BG, b"up", b"", b"x")
        client.send(T.ECHO_REQ, b"y")
        client.socket.shutdown(socket.SHUT_WR)  # who sends no more is told nevertheless
        other.settle()  # others don't wait
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        blocker.execute("COMMIT")
        client.socket.settimeout(20)
        (handle,) = client.expect(T.JOB_CREATED)
        client.expect(T.ECHO_RES, b"y")
        assert client.closed
        found = blocker.execute("SELECT server, number, function, data FROM gearman_job")
        assert [b"%s:%d" % (s.encode(), n) for s, n, *_ in found] == [handle]
        blocker.close()
        assert other.ask(b"show jobs") == handle + b"\t0\t0\t1\n.\n"


def test_a_job_that_can_not_be_stored_is_refused(gearman_server: Start, tmp_path: Path) -> None:
    server = gearman_server(
        f"persist.writer='sqlite:///{tmp_path}/jobs.db'", "persist.lock_wait_s=1"
    )
    with server.connect() as client:
        blocker = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        client.send(T.SUBMIT_JOB_BG, b"up", b"", b"x")
        client.send(T.ECHO_REQ, b"y")
        client.expect(T.ERROR, b"QUEUE_ERROR")
        client.expect(T.ECHO_RES, b"y")
        assert server.ask(b"status") == b"up\t0\t0\t0\n.\n"
        blocker.execute("COMMIT")
        blocker.close()
        client.call(T.SUBMIT_JOB_BG, b"up", b"", b"z", then=T.JOB_CREATED)
        assert server.ask(b"status") == b"up\t1\t0\t0\n.\n"


def test_one_job_that_is_too_large_keeps_no_other_out(
    gearman_server: Start, mariadb: MariaDB
) -> None:
    with mariadb.database("lj_gearman") as url:
        [(_, limit)] = mariadb.query("SHOW VARIABLES LIKE 'max_allowed_packet'")
        server = gearman_server(f"persist.writer={url!r}")
        with server.connect() as client:
            client.socket.sendall(
                request(T.SUBMIT_JOB_BG, b"up", b"", b"before")
                + request(T.SUBMIT_JOB_BG, b"up", b"", bytes(int(limit) + 1))
                + request(T.SUBMIT_JOB_BG, b"up", b"", b"after")
            )
            told = [client.read().type for _ in range(3)]
            assert told == [T.JOB_CREATED, T.ERROR, T.JOB_CREATED]
        doer = Doer(server)
        doer.join()
        assert doer.done == [b"before", b"after"]


def test_jobs_keep_their_handles_keys_and_times(gearman_server: Start, persist: str) -> None:
    server = gearman_server(persist)
    with server.connect() as client:
        later = client.call(
            T.SUBMIT_JOB_EPOCH, b"up", b"", b"99999999999", b"x", then=T.JOB_CREATED
        )
        keyed = client.call(T.SUBMIT_JOB_HIGH_BG, b"up", b"k", b"y", then=T.JOB_CREATED)
        client.call(T.SUBMIT_JOB, b"up", b"", b"not stored", then=T.JOB_CREATED)
    server.running.kill()
    server = gearman_server(persist)
    assert server.ask(b"prioritystatus") == b"up\t1\t1\t0\t0\n.\n"
    with server.connect() as client, server.connect() as worker:
        assert client.call(T.SUBMIT_JOB, b"up", b"k", b"z", then=T.JOB_CREATED) == keyed
        known = client.call(T.GET_STATUS, *later, then=T.STATUS_RES)
        assert known == (*later, b"1", b"0", b"0", b"0")
        new = client.call(T.SUBMIT_JOB, b"other", b"", b"", then=T.JOB_CREATED)
        assert new not in (later, keyed)
        worker.send(T.CAN_DO, b"up")
        assert worker.call(T.GRAB_JOB, then=T.JOB_ASSIGN) == (*keyed, b"up", b"y")
        worker.send(T.WORK_COMPLETE, *keyed, b"Y")
        client.expect(T.WORK_COMPLETE, *keyed, b"Y")
    assert server.running.terminate() == 0
    server = gearman_server(persist)
    assert server.ask(b"status") == b"up\t1\t0\t0\n.\n"


def test_of_two_servers_with_the_same_name_the_older_one_ends(
    gearman_server: Start, persist: str
) -> None:
    older = gearman_server(persist)
    newer = gearman_server(persist)
    with older.connect() as client:
        client.send(T.SUBMIT_JOB_BG, b"up", b"", b"x")
        assert client.closed
    assert older.running.process.wait(20) == 0
    assert "handle_prefix" in older.running.output
    with newer.connect() as client:
        client.call(T.SUBMIT_JOB_BG, b"up", b"", b"x", then=T.JOB_CREATED)
    other = gearman_server(persist, "handle_prefix=H:other")
    with other.connect() as client:
        client.call(T.SUBMIT_JOB_BG, b"down", b"", b"x", then=T.JOB_CREATED)
    assert other.ask(b"status") == b"down\t1\t0\t0\n.\n"
