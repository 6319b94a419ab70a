"""Jobs with a reducer: split by one worker, summed up by another, by way of each server."""

from __future__ import annotations

import pytest

from lj_services.gearman.client import Client
from lj_services.gearman.worker import Job, Worker
from tests.support.gearman import Start
from tests.support.job_servers import C_SERVER, at_work
from tests.support.job_servers import Start as StartPeer
from tests.support.process import wait_for

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("peer", [False, True], ids=["ours", "C"])
def test_words_are_counted(gearman_server: Start, job_server: StartPeer, peer: bool) -> None:
    address = job_server(C_SERVER).address if peer else gearman_server().address

    summed_up: list[int] = []

    def split(job: Job) -> bytes:
        with Client([address]) as client:
            tasks = client.task_set()
            parts = [tasks.add(job.reducer, line) for line in job.payload.split(b"\n")]
            tasks.run(timeout_s=20)
            summed_up.append(sum(int(part.value()) for part in parts))
            return b"%d" % summed_up[-1]

    splitter, reducer = Worker([address]), Worker([address])
    splitter.register("split", split)
    reducer.register("count", lambda job: b"%d" % len(job.payload.split()))
    with at_work(splitter), at_work(reducer), Client([address]) as client:
        text = b"one two\nthree\nfour five six"
        assert client.do("split", text, reducer="count", timeout_s=20) == b"6"
        left = client.submit("split", text, reducer="count")
        wait_for(lambda: not client.status(left).known, "the job to be done")
    assert summed_up == [6, 6]
