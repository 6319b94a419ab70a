"""The kit's client and worker by way of the kit's server."""

from __future__ import annotations

import time

import pytest

from lj_services.gearman.client import Client
from lj_services.gearman.worker import Job, Worker
from tests.support.gearman import Start
from tests.support.job_servers import at_work
from tests.support.process import wait_for

pytestmark = pytest.mark.interop


def test_calls_sets_and_background_jobs(gearman_server: Start) -> None:
    server = gearman_server()
    kept: list[bytes] = []

    def up(job: Job) -> bytes:
        return job.payload.upper()

    def keep(job: Job) -> None:
        kept.append(job.payload)

    worker = Worker([server.address], max_pause_s=0.2)
    worker.register("up", up)
    worker.register("keep", keep)
    with at_work(worker), Client([server.address]) as client:
        assert client.do("up", b"a\0b", timeout_s=10) == b"A\0B"
        tasks = client.task_set()
        done = [tasks.add("up", f"n{number}", unique=f"k{number % 5}") for number in range(20)]
        tasks.run(timeout_s=20)
        assert all(task.result is not None for task in done)
        for number in range(3):
            client.submit("keep", str(number))
        wait_for(lambda: len(kept) == 3, "the jobs to be done")
    assert kept == [b"0", b"1", b"2"]


def test_jobs_for_later_go_to_a_worker_that_sleeps(gearman_server: Start) -> None:
    """What gearmand forgets to wake workers for, or does not know."""
    server = gearman_server()
    kept: list[bytes] = []

    def keep(job: Job) -> None:
        kept.append(job.payload)

    worker = Worker([server.address], max_pause_s=0.2)
    worker.register("keep", keep)
    with at_work(worker), Client([server.address]) as client:
        soon = int(time.time()) + 2
        client.submit("keep", b"at a second", run_at_s=soon)
        client.submit("keep", b"at once", run_at_s=1)
        never = client.submit("keep", b"in a year", run_when="0 0 1 1 *")
        wait_for(lambda: len(kept) == 2, "the jobs to be done")
        assert kept == [b"at once", b"at a second"]
        assert time.time() >= soon
        assert client.status(never).known
