"""The asyncio client and worker by way of every job server."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lj_services.gearman.async_client import Priority
from lj_services.gearman.async_worker import AsyncJob, AsyncWorker, JobFailed
from lj_services.gearman.client import Client
from lj_services.gearman.client_errors import (
    BadTask,
    ConnectionLost,
    TaskException,
    TaskFailed,
    TaskTimeout,
)
from lj_services.gearman.client_session import RETIRE_AT
from lj_services.gearman.tasks import Task
from lj_services.gearman.worker import Worker
from tests.support.async_jobs import client_of, offered, reverse, until, working
from tests.support.job_servers import (
    EVERY,
    FULL,
    OUR_SERVER,
    PERL_SERVER,
    Start,
    asking,
    at_work,
)

pytestmark = pytest.mark.interop


@EVERY
def test_calls_data_progress_and_exceptions(job_server: Start, program: str) -> None:
    async def slow(job: AsyncJob) -> str:
        await job.progress(1, 2)
        if program != PERL_SERVER:
            await job.data(b"first ")
            await job.warning("late")
        return "last"

    async def broken(job: AsyncJob) -> bytes:
        raise LookupError("no such picture")

    async def failing(job: AsyncJob) -> None:
        raise JobFailed

    async def main() -> None:
        server = job_server(program)
        functions = {"reverse": reverse, "slow": slow, "broken": broken, "failing": failing}
        async with working(server, **functions) as worker, client_of(server) as client:
            payload = bytes(range(256)) * 1000
            assert await client.do("reverse", payload, timeout_s=20) == payload[::-1]
            seen: list[object] = []
            got = await client.do(
                "slow",
                timeout_s=20,
                on_status=lambda _, *at: seen.append(at),
                on_warning=lambda _, text: seen.append(text),
            )
            if program == PERL_SERVER:
                assert (got, seen) == (b"last", [(1, 2)])
            else:
                assert (got, seen) == (b"first last", [(1, 2), b"late"])
            with pytest.raises(TaskException, match="broken: LookupError: no such") as caught:
                await client.do("broken", timeout_s=20)
            assert b"in broken" in caught.value.details
            with pytest.raises(TaskFailed):
                await client.do("failing", timeout_s=20)
            assert await client.do("reverse", b"ab", timeout_s=20) == b"ba"
            assert worker.jobs_done == 5

    asyncio.run(main())


@EVERY
def test_a_thousand_calls_at_once_over_one_connection_to_each_server(
    job_server: Start, program: str
) -> None:
    together = 0
    most = 0
    met = asyncio.Event()

    async def meet(job: AsyncJob) -> bytes:
        nonlocal together, most
        together += 1
        most = max(most, together)
        if together > 1:
            met.set()
        await met.wait()
        together -= 1
        return job.payload

    async def main() -> None:
        servers = [job_server(program), job_server(program)]
        async with working(*servers, at_once=8, meet=meet), client_of(*servers) as client:
            calls = (client.do("meet", str(number), timeout_s=60) for number in range(1000))
            assert await asyncio.gather(*calls) == [str(n).encode() for n in range(1000)]
            assert len(client._connections) == 2
        assert 1 < most <= 8

    asyncio.run(main())


@EVERY
def test_background_jobs_priorities_and_status(job_server: Start, program: str) -> None:
    order: list[bytes] = []
    go_on = asyncio.Event()

    async def note(job: AsyncJob) -> None:
        order.append(job.payload)
        await job.progress(3, 10)
        await go_on.wait()

    async def main() -> None:
        server = job_server(program)
        async with client_of(server) as client:
            if program == PERL_SERVER:  # which knows normal priority alone
                job = await client.submit("note", b"high", unique="one")
            else:
                await client.submit("note", b"low", priority=Priority.LOW)
                await client.submit("note", b"normal")
                job = await client.submit("note", b"high", priority=Priority.HIGH, unique="one")
            status = await client.status(job)
            assert (status.known, status.running) == (True, False)
            async with working(server, at_once=1, note=note):

                async def told() -> bool:
                    return (await client.status(job))[:4] == (True, True, 3, 10)

                await until(told, "the progress")
                if program != PERL_SERVER:
                    assert (await client.status_of_unique("one")).running
                    assert not (await client.status_of_unique("other")).known
                go_on.set()

                async def done() -> bool:
                    return (await asyncio.to_thread(server.status))["note"][:2] == (0, 0)

                await until(done, "all jobs")
            assert order == ([b"high"] if program == PERL_SERVER else [b"high", b"normal", b"low"])
            assert await client.ping(client.servers[0]) >= 0

    asyncio.run(main())


@FULL
def test_equal_calls_run_once_and_retries_end(job_server: Start, program: str) -> None:
    calls: list[bytes] = []

    async def flaky(job: AsyncJob) -> bytes:
        calls.append(job.unique)
        await asyncio.sleep(0)
        if len(calls) < 3:
            raise JobFailed
        return b"at last"

    async def main() -> None:
        server = job_server(program)
        async with working(server, flaky=flaky), client_of(server) as client:
            same = [client.do("flaky", unique="k", retries=2, timeout_s=20) for _ in range(10)]
            assert await asyncio.gather(*same) == [b"at last"] * 10
            assert calls == [b"k"] * 3

    asyncio.run(main())


@EVERY
def test_time_limits_of_calls_of_sets_and_of_functions(job_server: Start, program: str) -> None:
    async def main() -> None:
        server = job_server(program)
        async with client_of(server) as client:
            with pytest.raises(TaskTimeout, match=r"within 0\.05 s"):
                await client.do("nobody", timeout_s=0.05)
            tasks = client.task_set()
            tasks.add("nobody")
            (task,) = await tasks.run(timeout_s=0.05)
            assert isinstance(task.failure, TaskTimeout)
            # What is given up must not fill the lane for those that come after.
            for _ in range(2 * RETIRE_AT // 25):
                tasks = client.task_set()
                for _ in range(25):
                    tasks.add("nobody")
                await tasks.run(timeout_s=0.01)
            async with working(server):
                assert await client.do("reverse", b"ab", timeout_s=20) == b"ba"
            worker = AsyncWorker([server.address])
            worker.register("slow", lambda _: asyncio.sleep(60, b""), timeout_s=0.1)
            running = asyncio.create_task(worker.run(max_jobs=1))
            with pytest.raises(TaskException, match=r"longer than 0\.1 s"):
                await client.do("slow", timeout_s=20)
            assert await running == 1

    asyncio.run(main())


def test_callbacks_may_add_tasks_and_what_one_raises_ends_only_its_run(job_server: Start) -> None:
    def fail(_: Task) -> None:
        raise LookupError("mine")

    async def main() -> None:
        server = job_server(OUR_SERVER)
        async with working(server), client_of(server) as client:
            tasks = client.task_set()
            tasks.add("reverse", b"ab", on_complete=lambda _: tasks.add("reverse", b"cd"))
            done = await tasks.run(timeout_s=20)
            assert [task.value() for task in done] == [b"ba", b"dc"]
            broken = client.task_set()
            broken.add("reverse", on_complete=fail)
            broken.add("nobody")
            other = asyncio.create_task(client.do("reverse", b"ef", timeout_s=20))
            with pytest.raises(LookupError, match="mine"):
                await broken.run(timeout_s=20)
            assert await other == b"fe"
            with pytest.raises(BadTask):
                await client.do("")

    asyncio.run(main())


def test_a_cancelled_call_leaves_the_client_as_it_was(job_server: Start) -> None:
    async def main() -> None:
        server = job_server(OUR_SERVER)
        async with client_of(server) as client:
            call = asyncio.create_task(client.do("nobody"))
            await offered(server, "nobody", 0)

            async def queued() -> bool:
                return (await asyncio.to_thread(server.status)).get("nobody", (0,))[0] == 1

            await until(queued, "the job")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            async with working(server):
                assert await client.do("reverse", b"ab", timeout_s=20) == b"ba"
            waiting = asyncio.create_task(client.do("nobody"))
            await asyncio.sleep(0)
            await client.close()
            with pytest.raises(ConnectionLost, match="closed"):
                await waiting

    asyncio.run(main())


# -- faults --------------------------------------------------------------------------


def test_blocking_and_asyncio_sides_understand_each_other(job_server: Start) -> None:
    async def main() -> None:
        server = job_server(OUR_SERVER)
        worker = Worker([server.address])
        worker.register("length", lambda job: str(len(job.payload)))
        with at_work(worker):
            async with client_of(server) as client:
                assert await client.do("length", b"four", timeout_s=20) == b"4"
        answers: list[bytes] = []

        def ask() -> None:
            with asking(server) as blocking:
                assert isinstance(blocking, Client)
                answers.append(blocking.do("reverse", b"ab", timeout_s=20))

        async with working(server):
            thread = threading.Thread(target=ask)
            thread.start()
            await asyncio.to_thread(thread.join, 20)
        assert answers == [b"ba"]

    asyncio.run(main())
