"""The asyncio client and worker for tests, by way of `tests.support.job_servers`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from lj_services.gearman.async_client import AsyncClient
from lj_services.gearman.async_worker import AsyncJob, AsyncWorker
from tests.support.job_servers import JobServer

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
