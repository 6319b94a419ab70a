"""The asyncio client and worker while servers and workers end, by way of every job server."""

from __future__ import annotations

import asyncio

import pytest

from lj_services.gearman.async_worker import AsyncJob, AsyncWorker
from lj_services.gearman.client_errors import (
    ConnectionLost,
    ServerUnreachable,
)
from lj_services.gearman.tasks import Task
from tests.support.async_jobs import client_of, offered, reverse, until, working
from tests.support.job_servers import (
    FULL,
    OUR_SERVER,
    Start,
)

pytestmark = pytest.mark.interop


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
