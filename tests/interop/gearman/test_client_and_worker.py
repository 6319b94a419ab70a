"""The kit's client and worker by way of job servers that others wrote."""

from __future__ import annotations

import threading
import time

import pytest

from lj_services.gearman.client import Client, Priority
from lj_services.gearman.client_errors import (
    TaskException,
    TaskFailed,
    TaskTimeout,
)
from lj_services.gearman.worker import Job, JobFailed, Worker
from tests.support.job_servers import (
    EVERY,
    FULL,
    PERL_SERVER,
    Start,
    asking,
    at_work,
    reverse,
    worker_of,
)
from tests.support.process import wait_for

pytestmark = pytest.mark.interop


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
