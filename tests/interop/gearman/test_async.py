"""The asyncio client and worker by way of every job server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from lj_services.gearman.async_client import AsyncClient, Priority
from lj_services.gearman.async_worker import AsyncJob, AsyncWorker, JobFailed
from lj_services.gearman.client import Client
from lj_services.gearman.client_errors import (
    BadTask,
    ConnectionLost,
    ServerUnreachable,
    TaskException,
    TaskFailed,
    TaskTimeout,
)
from lj_services.gearman.client_session import RETIRE_AT
from lj_services.gearman.tasks import Task
from lj_services.gearman.worker import Worker
from tests.support.job_servers import (
    C_SERVER,
    OUR_SERVER,
    PERL_SERVER,
    JobServer,
    Start,
    asking,
    at_work,
)

pytestmark = pytest.mark.interop

EVERY = pytest.mark.parametrize(
    "program", [C_SERVER, PERL_SERVER, OUR_SERVER], ids=["C", "Perl", "ours"]
)
FULL = pytest.mark.parametrize("program", [C_SERVER, OUR_SERVER], ids=["C", "ours"])
"""Those that know all of today's packets."""

Function = Callable[[AsyncJob], Awaitable[bytes | str | None]]


async def reverse(job: AsyncJob) -> bytes:
    return job.payload[::-1]


@asynccontextmanager
async def working(
    *servers: JobServer, at_once: int = 4, **functions: Function
) -> AsyncIterator[AsyncWorker]:
    """A worker that runs for the length of the block."""
    worker = AsyncWorker([one.address for one in servers], at_once=at_once, max_pause_s=0.2)
    for name, function in (functions or {"reverse": reverse}).items():
        worker.register(name, function)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await asyncio.wait_for(running, 20)


def client_of(*servers: JobServer) -> AsyncClient:
    return AsyncClient([server.address for server in servers], dead_retry_s=0.2)


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for `what`, whose name is in the traceback if it does not come."""
    async with asyncio.timeout(20):
        while not await holds():  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.01)


async def offered(server: JobServer, function: str, workers: int = 1) -> None:
    async def there() -> bool:
        status = await asyncio.to_thread(server.status)
        return status.get(function, (0, 0, 0))[2] == workers

    await until(there, "the worker")


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


@FULL
def test_worker_and_client_survive_their_servers_restarts(job_server: Start, program: str) -> None:
    async def main() -> None:
        servers = [job_server(program), job_server(program)]
        async with working(*servers), client_of(*servers) as client:
            assert await client.do("reverse", b"ab", timeout_s=20) == b"ba"
            for dead in servers:
                await asyncio.to_thread(dead.kill)
                for number in range(20):
                    key = f"{number}" if number % 2 else ""
                    got = await client.do("reverse", b"ab", unique=key, retries=1, timeout_s=20)
                    assert got == b"ba"
                await asyncio.to_thread(dead.start)
                await offered(dead, "reverse")

    asyncio.run(main())


@FULL
def test_a_server_that_dies_with_jobs(job_server: Start, program: str) -> None:
    """Calls that may run twice go to the other server; the others say that they are lost."""

    async def main() -> None:
        servers = [job_server(program), job_server(program)]
        async with client_of(*servers) as client:
            tasks = client.task_set()
            created = asyncio.Event()

            def count(_: Task) -> None:
                if all(task.job is not None for task in tasks.tasks):
                    created.set()

            for number in range(10):
                tasks.add("reverse", b"ab", unique=f"k{number}", on_created=count)
                tasks.add("reverse", b"ab", retries=1, on_created=count)
                tasks.add("reverse", b"ab", on_created=count)
                tasks.add("reverse", b"ab", on_created=count)
            running = asyncio.create_task(tasks.run(timeout_s=30))
            await created.wait()
            await asyncio.to_thread(servers[0].kill)
            async with working(servers[1]):
                await running
            for number, task in enumerate(tasks.tasks):
                if task.failure is None:
                    assert task.value() == b"ba"
                else:
                    assert number % 4 >= 2
                    assert isinstance(task.failure, ConnectionLost)
            assert sum(task.failure is not None for task in tasks.tasks) == 10
            servers[1].kill()
            with pytest.raises((ServerUnreachable, ConnectionLost)):
                await client.do("reverse")
            with pytest.raises(ServerUnreachable, match=servers[1].address):
                await client.do("reverse")

    asyncio.run(main())


@FULL
def test_stop_lets_all_current_jobs_finish(job_server: Start, program: str) -> None:
    inside: list[AsyncJob] = []
    go_on = asyncio.Event()

    async def long(job: AsyncJob) -> bytes:
        inside.append(job)
        await go_on.wait()
        return b"finished"

    async def main() -> None:
        server = job_server(program)
        async with client_of(server) as client:
            calls = [asyncio.create_task(client.do("long", timeout_s=30)) for _ in range(2)]
            async with working(server, at_once=2, long=long) as worker:

                async def both() -> bool:
                    return len(inside) == 2

                await until(both, "both jobs")
                await client.submit("long")
                worker.stop()
                go_on.set()
                assert await asyncio.gather(*calls) == [b"finished"] * 2
            assert worker.jobs_done == 2
            assert (await asyncio.to_thread(server.status))["long"][:2] == (1, 0)

    asyncio.run(main())


def test_a_worker_whose_server_goes_in_the_middle_knows_and_goes_on(job_server: Start) -> None:
    inside = asyncio.Event()
    jobs: list[AsyncJob] = []

    async def long(job: AsyncJob) -> bytes:
        jobs.append(job)
        inside.set()
        while len(jobs) == 1 and not job.lost:
            await job.progress(1, 2)
            await asyncio.sleep(0.01)
        return b"done"

    async def main() -> None:
        server = job_server(OUR_SERVER)
        async with working(server, at_once=1, long=long), client_of(server) as client:
            await client.submit("long")
            await inside.wait()
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            assert await client.do("long", retries=1, timeout_s=20) == b"done"
        assert [job.lost for job in jobs] == [True, False]

    asyncio.run(main())


def test_limits_end_a_worker(job_server: Start) -> None:
    async def main() -> None:
        server = job_server()
        async with client_of(server) as client:
            for _ in range(5):
                await client.submit("reverse", b"ab")
        worker = AsyncWorker([server.address], at_once=8)
        worker.register("reverse", reverse)
        assert await worker.run(max_jobs=3) == 3
        assert await worker.run(idle_timeout_s=0.1) == 2

    asyncio.run(main())


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
