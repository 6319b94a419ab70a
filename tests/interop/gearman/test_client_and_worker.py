"""The kit's client and worker by way of job servers that others wrote."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from lj_services.gearman.client import Client, Priority
from lj_services.gearman.client_errors import (
    ConnectionLost,
    ServerUnreachable,
    TaskException,
    TaskFailed,
    TaskTimeout,
)
from lj_services.gearman.worker import Job, JobFailed, Worker
from tests.support.job_servers import (
    C_SERVER,
    OUR_SERVER,
    PERL_SERVER,
    JobServer,
    Start,
    asking,
    at_work,
)
from tests.support.process import wait_for

pytestmark = pytest.mark.interop

EVERY = pytest.mark.parametrize(
    "program", [C_SERVER, PERL_SERVER, OUR_SERVER], ids=["C", "Perl", "ours"]
)
FULL = pytest.mark.parametrize("program", [C_SERVER, OUR_SERVER], ids=["C", "ours"])
"""Those that know all of today's packets."""


def reverse(job: Job) -> bytes:
    return job.payload[::-1]


def worker_of(*servers: JobServer, **functions: Callable[[Job], bytes | str | None]) -> Worker:
    worker = Worker([server.address for server in servers], max_pause_s=0.2)
    for name, function in (functions or {"reverse": reverse}).items():
        worker.register(name, function)
    return worker


@EVERY
def test_a_result_with_any_bytes(job_server: Start, program: str) -> None:
    server = job_server(program)
    payload = bytes(range(256)) * 1000
    with at_work(worker_of(server)), asking(server) as client:
        assert client.do("reverse", payload, timeout_s=20) == payload[::-1]
        assert client.do("reverse", b"", timeout_s=20) == b""


@EVERY
def test_progress_comes_before_the_result(job_server: Start, program: str) -> None:
    def slow(job: Job) -> None:
        job.progress(1, 2)
        job.progress(2, 2)

    server = job_server(program)
    seen: list[tuple[int, ...]] = []
    with at_work(worker_of(server, slow=slow)), asking(server) as client:
        client.do("slow", timeout_s=20, on_status=lambda _, *at: seen.append(at))
    assert seen == [(1, 2), (2, 2)]


@FULL
def test_data_and_warnings_come_before_the_result(job_server: Start, program: str) -> None:
    """Not with Perl's server, which knows neither."""

    def slow(job: Job) -> str:
        job.data(b"first ")
        job.warning("late")
        job.data("second ")
        return "last"

    server = job_server(program)
    with at_work(worker_of(server, slow=slow)), asking(server) as client:
        assert client.do("slow", timeout_s=20) == b"first second last"
        seen: list[bytes | None] = []
        client.do(
            "slow",
            timeout_s=20,
            on_data=lambda _, part: seen.append(part),
            on_warning=lambda _, text: seen.append(text),
            on_complete=lambda task: seen.append(task.result),
        )
    assert seen == [b"first ", b"late", b"second ", b"last"]


@EVERY
def test_an_exception_is_passed_on_with_its_traceback(job_server: Start, program: str) -> None:
    def broken(job: Job) -> bytes:
        raise LookupError("no such picture")

    def failing(job: Job) -> bytes:
        raise JobFailed

    server = job_server(program)
    worker = worker_of(server, broken=broken, failing=failing, reverse=reverse)
    with at_work(worker), asking(server) as client:
        with pytest.raises(TaskException, match=r"broken: LookupError: no such picture") as caught:
            client.do("broken", timeout_s=20)
        assert b"Traceback" in caught.value.details
        assert b"in broken" in caught.value.details
        with pytest.raises(TaskFailed):
            client.do("failing", timeout_s=20)
        assert client.do("reverse", b"ab", timeout_s=20) == b"ba"  # the worker goes on
    assert worker.jobs_done == 3


@EVERY
def test_retries_end_with_success_or_with_the_last_failure(job_server: Start, program: str) -> None:
    calls = {b"twice": 0, b"always": 0}

    def flaky(job: Job) -> bytes:
        calls[job.payload] += 1
        if job.payload == b"always" or calls[job.payload] < 3:
            raise JobFailed
        return b"at last"

    server = job_server(program)
    with at_work(worker_of(server, flaky=flaky)), asking(server) as client:
        assert client.do("flaky", b"twice", retries=2, timeout_s=20) == b"at last"
        with pytest.raises(TaskFailed):
            client.do("flaky", b"always", retries=2, timeout_s=20)
    assert calls == {b"twice": 3, b"always": 3}


@EVERY
def test_a_set_runs_on_all_workers_and_returns_in_order(job_server: Start, program: str) -> None:
    servers = [job_server(program), job_server(program)]
    both = threading.Barrier(2, timeout=20)

    def meet(job: Job) -> bytes:
        if job.payload in (b"0", b"1"):
            both.wait()  # only passes if two workers are in it at once
        return job.payload

    with (
        at_work(worker_of(*servers, meet=meet)),
        at_work(worker_of(*servers, meet=meet)),
        asking(*servers) as client,
    ):
        tasks = client.task_set()
        for number in range(2):
            tasks.add("meet", str(number))
        tasks.run(timeout_s=20)
        for number in range(2, 1500):
            tasks.add("meet", str(number))
        values = [task.value() for task in tasks.run(timeout_s=60)]
    assert values == [str(number).encode() for number in range(1500)]
    assert {task.job.server for task in tasks.tasks if task.job} == set(client.servers)


@EVERY
def test_a_time_limit_ends_the_wait_and_the_client_can_go_on(
    job_server: Start, program: str
) -> None:
    server = job_server(program)
    with asking(server) as client:
        start = time.monotonic()
        with pytest.raises(TaskTimeout):
            client.do("nobody", timeout_s=0.2)
        assert 0.2 <= time.monotonic() - start < 10
        with at_work(worker_of(server)):
            assert client.do("reverse", b"ab", timeout_s=20) == b"ba"


@EVERY
def test_a_background_job_waits_for_a_worker(job_server: Start, program: str) -> None:
    server = job_server(program)
    done = threading.Event()
    with asking(server) as client:
        job = client.submit("note", b"normal")
        status = client.status(job)
        assert (status.known, status.running) == (True, False)
        with at_work(worker_of(server, note=lambda _: done.set())):
            assert done.wait(20)
            wait_for(lambda: not client.status(job).known, "the job to be forgotten")


@FULL
def test_high_priority_goes_first(job_server: Start, program: str) -> None:
    server = job_server(program)
    order: list[bytes] = []
    with asking(server) as client:
        client.submit("note", b"low", priority=Priority.LOW)
        client.submit("note", b"normal")
        client.submit("note", b"high", priority=Priority.HIGH)
    worker = worker_of(server, note=lambda job: order.append(job.payload))
    assert worker.run(max_jobs=3) == 3
    worker.close()
    assert order == [b"high", b"normal", b"low"]


@EVERY
def test_status_tells_how_far_a_running_job_is(job_server: Start, program: str) -> None:
    server = job_server(program)
    go_on = threading.Event()

    def long(job: Job) -> None:
        job.progress(3, 10)
        assert go_on.wait(20)

    with at_work(worker_of(server, long=long)), asking(server) as client:
        job = client.submit("long", unique="one")
        wait_for(lambda: client.status(job).denominator == 10, "the progress")
        assert client.status(job)[:4] == (True, True, 3, 10)
        if program != PERL_SERVER:
            assert client.status_of_unique("one").running
            assert not client.status_of_unique("other").known
        go_on.set()


@FULL
def test_equal_tasks_of_different_clients_run_once(job_server: Start, program: str) -> None:
    servers = [job_server(program), job_server(program), job_server(program)]
    calls: list[bytes] = []
    go_on = threading.Event()

    def once(job: Job) -> bytes:
        calls.append(job.unique)
        assert go_on.wait(20)
        return b"for all"

    results: list[bytes] = []

    def call() -> None:
        with asking(*servers) as client:
            results.append(client.do("once", unique="user:7", timeout_s=30))

    threads = [threading.Thread(target=call, daemon=True) for _ in range(4)]
    with at_work(worker_of(*servers, once=once)), asking(*servers) as client:
        for thread in threads:
            thread.start()
        wait_for(
            lambda: (client.status_of_unique("user:7").waiting_clients or 0) == 4, "four clients"
        )
        go_on.set()
        for thread in threads:
            thread.join(20)
    assert results == [b"for all"] * 4
    assert calls == [b"user:7"]


@FULL
def test_equal_tasks_of_one_set_run_once(job_server: Start, program: str) -> None:
    server = job_server(program)
    calls: list[bytes] = []

    def once(job: Job) -> bytes:
        calls.append(job.payload)
        job.data(b"part ")
        return b"all"

    with at_work(worker_of(server, once=once)), asking(server) as client:
        tasks = client.task_set()
        for _ in range(3):
            tasks.add("once", b"same", unique="-")
        tasks.run(timeout_s=20)
    assert [task.value() for task in tasks.tasks] == [b"part all"] * 3
    assert calls == [b"same"]


@FULL
def test_a_job_that_takes_too_long_is_interrupted_and_the_client_told(
    job_server: Start, program: str
) -> None:
    server = job_server(program)
    caught: list[Exception] = []

    def ask() -> None:
        with asking(server) as client:
            try:
                client.do("slow", timeout_s=30)
            except TaskException as error:
                caught.append(error)

    worker = Worker([server.address])
    worker.register("slow", lambda _: time.sleep(60), timeout_s=0.2)
    client = threading.Thread(target=ask, daemon=True)
    client.start()
    worker.run(max_jobs=1)  # in the main thread, where there are alarms
    client.join(20)
    worker.close()
    assert "longer than 0.2 s" in str(caught[0])


def test_the_server_gives_a_slow_job_to_another_worker(job_server: Start) -> None:
    server = job_server()
    calls: list[int] = []
    second = threading.Event()

    def slow(job: Job) -> bytes:
        calls.append(threading.get_ident())
        if len(calls) == 1:
            assert second.wait(20)  # not in the main thread: nothing interrupts it
            return b"first"
        second.set()
        return b"second"

    def make() -> Worker:
        worker = Worker([server.address])
        worker.register("slow", slow, timeout_s=0.1)
        return worker

    with at_work(make()), at_work(make()), asking(server) as client:
        assert client.do("slow", timeout_s=30) == b"second"
        assert len(set(calls)) == 2


# -- faults --------------------------------------------------------------------------


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


@FULL
def test_clients_of_many_threads(job_server: Start, program: str) -> None:
    server = job_server(program)
    wrong: list[bytes] = []

    def use(client: Client, number: int) -> None:
        for turn in range(50):
            payload = f"{number}-{turn}".encode()
            if (got := client.do("reverse", payload, timeout_s=30)) != payload[::-1]:
                wrong.append(got)

    with at_work(worker_of(server)), asking(server) as client:
        threads = [threading.Thread(target=use, args=(client, n), daemon=True) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    assert wrong == []
