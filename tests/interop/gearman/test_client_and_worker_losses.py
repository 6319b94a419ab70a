"""The kit's client and worker while servers and workers end, by way of every job server."""

from __future__ import annotations

import threading

import pytest

from lj_services.gearman.client_errors import (
    ConnectionLost,
    ServerUnreachable,
)
from lj_services.gearman.worker import Job
from tests.support.job_servers import (
    FULL,
    Start,
    asking,
    at_work,
    worker_of,
)
from tests.support.process import wait_for

pytestmark = pytest.mark.interop


@FULL
def test_a_worker_survives_its_servers_restart(job_server: Start, program: str) -> None:
    server = job_server(program)
    with at_work(worker_of(server)), asking(server) as client:
        assert client.do("reverse", b"ab", timeout_s=20) == b"ba"
        for _ in range(3):
            server.kill()
            server.start()
            wait_for(lambda: server.status().get("reverse", (0, 0, 0))[2] == 1, "the worker")
            assert client.do("reverse", b"cd", timeout_s=20) == b"dc"


@FULL
def test_work_goes_on_while_one_of_two_servers_is_dead(job_server: Start, program: str) -> None:
    servers = [job_server(program), job_server(program)]
    with at_work(worker_of(*servers)), asking(*servers) as client:
        assert client.do("reverse", b"ab", timeout_s=20) == b"ba"
        for dead in servers:
            dead.kill()
            for number in range(20):
                key = f"{number}" if number % 2 else ""
                assert client.do("reverse", b"ab", unique=key, timeout_s=20) == b"ba"
            dead.start()
            wait_for(lambda: dead.status().get("reverse", (0, 0, 0))[2] == 1, "the worker")  # noqa: B023


@FULL
def test_a_server_that_dies_with_jobs(job_server: Start, program: str) -> None:
    """Tasks that may run twice go to the other server; the others say that they are lost."""
    servers = [job_server(program), job_server(program)]
    with asking(*servers) as client:
        killed = threading.Event()

        def kill_once(task: object) -> None:
            if all(one.job is not None for one in tasks.tasks) and not killed.is_set():
                killed.set()
                servers[0].kill()

        tasks = client.task_set()
        for number in range(10):
            tasks.add("reverse", b"ab", unique=f"k{number}", on_created=kill_once)
            tasks.add("reverse", b"ab", retries=1, on_created=kill_once)
            tasks.add("reverse", b"ab", on_created=kill_once)
            tasks.add("reverse", b"ab", on_created=kill_once)
        with at_work(worker_of(servers[1])):
            # It takes nothing from the server that dies, so all that is there is lost.
            tasks.run(timeout_s=30)
    assert killed.is_set()
    survivor = client.servers[1]
    for number, task in enumerate(tasks.tasks):
        if task.failure is None:
            assert task.value() == b"ba"
            assert task.job is not None
            assert task.job.server == survivor
        else:
            assert number % 4 >= 2
            assert isinstance(task.failure, ConnectionLost)
    assert sum(task.failure is not None for task in tasks.tasks) == 10


def test_no_server_at_all(job_server: Start) -> None:
    server = job_server()
    server.kill()
    with asking(server) as client, pytest.raises(ServerUnreachable, match=server.address):
        client.do("reverse")


@FULL
def test_a_killed_workers_job_is_done_by_the_next(job_server: Start, program: str) -> None:
    """The connection ends in the middle of a job, as when the worker's process is killed."""
    server = job_server(program)
    calls: list[int] = []

    class Killed(BaseException):
        pass

    def die(job: Job) -> bytes:
        raise Killed

    def finish(job: Job) -> bytes:
        calls.append(1)
        return b"done"

    results: list[bytes] = []

    def ask() -> None:
        with asking(server) as client:
            results.append(client.do("work", timeout_s=30))

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    with pytest.raises(Killed):
        worker_of(server, work=die).run()
    with at_work(worker_of(server, work=finish)):
        asker.join(20)
    assert results == [b"done"]
    assert calls == [1]


@FULL
def test_stop_lets_the_current_job_finish(job_server: Start, program: str) -> None:
    server = job_server(program)
    inside, go_on = threading.Event(), threading.Event()

    def long(job: Job) -> bytes:
        inside.set()
        assert go_on.wait(20)
        return b"finished"

    results: list[bytes] = []
    with asking(server) as client:
        asker = threading.Thread(
            target=lambda: results.append(client.do("long", timeout_s=30)), daemon=True
        )
        with at_work(worker_of(server, long=long)) as worker:
            asker.start()
            assert inside.wait(20)
            client.submit("long")
            worker.stop()
            go_on.set()
            asker.join(20)
        assert results == [b"finished"]
        assert worker.jobs_done == 1
        assert server.status()["long"][:2] == (1, 0)  # the other one waits for other workers


def test_max_jobs_and_idle_timeout_end_a_worker(job_server: Start) -> None:
    server = job_server()
    with asking(server) as client:
        for _ in range(3):
            client.submit("reverse", b"ab")
    worker = worker_of(server)
    assert worker.run(max_jobs=2) == 2
    assert worker.run(idle_timeout_s=0.1) == 1
    worker.close()
