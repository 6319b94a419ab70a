"""The gofer: a bounded number of database connections, used by whoever sends calls.

For each role it is a worker of these functions::

    gofer.cluster1.read          read_connections at the same time
    gofer.cluster1.write         write_connections at the same time, less the leases
    gofer.cluster1.write@9f..    calls in transactions that this gofer holds

The last one's name is this process's own: what is sent to a gofer that has died is done by
nobody, rather than by another one that does not have the transaction.  A gofer that ends in order
has the job servers forget that name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from lj_services.database import DatabaseError as KitError
from lj_services.database import Databases, DatabaseSettings
from lj_services.gearman.admin_client import AdminClient, AdminRefused
from lj_services.gearman.async_worker import AsyncJob, AsyncWorker
from lj_services.gearman.gofer import metrics
from lj_services.gearman.gofer.config import GoferRole, GoferSettings
from lj_services.gearman.gofer.errors import Error, InterfaceError, OperationalError
from lj_services.gearman.gofer.executor import Executor
from lj_services.gearman.gofer.leases import Leases
from lj_services.gearman.gofer.messages import Request, error_frame

log = logging.getLogger(__name__)

_FORGET_EVERY_S: Final = 600.0

Handler = Callable[[AsyncJob, Request], Awaitable[bytes]]


def pooled(settings: DatabaseSettings, offered: GoferSettings) -> DatabaseSettings:
    """The site's databases that are offered, with pools as large as the gofer uses them.

    Raises:
        ValueError: a role is offered that the site does not have.
    """
    if unknown := offered.roles.keys() - settings.roles.keys():
        known = ", ".join(settings.roles)
        raise ValueError(f"roles.{min(unknown)}: the site has no such role; it has {known}")
    roles = {
        name: settings.roles[name].model_copy(
            update={"pool_size": 1 + max(role.read_connections, role.write_connections, 1)}
        )
        for name, role in offered.roles.items()
    }
    return settings.model_copy(update={"roles": roles})


class GoferService:
    """The gofer, as `run_service` wants it.

    Args:
        settings: what is offered.
        databases: made with the settings of `pooled`; closed by whoever made them.
    """

    def __init__(self, settings: GoferSettings, databases: Databases) -> None:
        self._settings = settings
        self._databases = databases
        self._executor = Executor(databases, settings)
        self._name = secrets.token_hex(8)
        self._threads = ThreadPoolExecutor(
            sum(r.read_connections + r.write_connections + 1 for r in settings.roles.values()),
            thread_name_prefix="gofer",
        )
        self._workers: list[AsyncWorker] = []
        self._holders: list[AsyncWorker] = []
        self._leases: list[Leases] = []
        self._own: list[str] = []
        self._running: list[asyncio.Task[Any]] = []

    async def start(self) -> None:
        for name, role in self._settings.roles.items():
            if role.read_connections:
                reader = self._worker(role.read_connections)
                self._offer(reader, name, "read", self._reads(name))
                self._workers.append(reader)
            if role.write_connections:
                self._offer_writes(name, role)
        self._running = [
            asyncio.create_task(worker.run()) for worker in (*self._workers, *self._holders)
        ]
        self._running.append(asyncio.create_task(self._forget_old()))

    async def drain(self) -> None:
        for worker in self._workers:
            worker.stop()
        await asyncio.gather(*self._running[: len(self._workers)])
        # Whoever holds a transaction has as long as its lease to end it.
        for leases in self._leases:
            await leases.none.wait()
        for worker in self._holders:
            worker.stop()
        await asyncio.gather(*self._running[len(self._workers) : -1])
        await self._in_thread(self._withdraw)

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for leases in self._leases:
            await leases.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def reload(self, settings: GoferSettings) -> None:
        """Log format and level change in a running gofer; everything else needs a restart."""

    # -- what is offered -------------------------------------------------------------

    def _worker(self, at_once: int) -> AsyncWorker:
        return AsyncWorker(self._settings.servers, at_once=at_once, client_id=f"gofer-{self._name}")

    def _offer(self, worker: AsyncWorker, role: str, kind: str, handle: Handler) -> str:
        name = f"{self._settings.prefix}.{role}.{kind}"

        async def call(job: AsyncJob) -> bytes:
            loop = asyncio.get_running_loop()
            start = loop.time()
            outcome, do = "done", "?"
            try:
                request = Request.parse(job.payload)
                do = request.do
                return await handle(job, request)
            except Error as error:
                outcome = type(error).__name__
                return error_frame(error)
            finally:
                metrics.CALLS.labels(role, do, outcome).inc()
                metrics.SECONDS.labels(role, do).observe(loop.time() - start)

        worker.register(name, call)
        return name

    def _offer_writes(self, name: str, role: GoferRole) -> None:
        sqlite = self._databases.writer(name).is_sqlite
        connections = 1 if sqlite else role.write_connections
        most = min(role.max_leases, connections if sqlite else connections // 2)
        writer, holder = self._worker(connections), self._worker(max(1, most))

        def changed(count: int) -> None:
            writer.at_once = connections - count

        leases = Leases(name, self._executor, self._in_thread, most, changed)
        own = self._offer(holder, name, f"write@{self._name}", lambda _, asked: leases.call(asked))
        self._own.append(own)
        self._offer(writer, name, "write", self._writes(name, leases, own))
        self._workers.append(writer)
        self._holders.append(holder)
        self._leases.append(leases)

    def _reads(self, role: str) -> Handler:
        async def read(job: AsyncJob, request: Request) -> bytes:
            if request.do != "read":
                raise InterfaceError(f"{request.do} is no call for a reader")
            loop = asyncio.get_running_loop()

            def send(frame: bytes) -> None:
                asyncio.run_coroutine_threadsafe(job.data(frame), loop).result()
                if job.lost:
                    raise OperationalError("the job server is gone")

            return bytes(await self._in_thread(self._executor.read, role, request, send))

        return read

    def _writes(self, role: str, leases: Leases, own: str) -> Handler:
        async def write(_job: AsyncJob, request: Request) -> bytes:
            if request.do == "lease":
                if not 0 < request.lease_s <= self._settings.max_lease_s:
                    raise InterfaceError(
                        f"a lease of {request.lease_s:g} s: more than 0 and at most "
                        f"{self._settings.max_lease_s:g} (max_lease_s)"
                    )
                return await leases.open(request, own)
            if request.do != "write":
                raise InterfaceError(f"{request.do} is no call for a writer")
            return bytes(await self._in_thread(self._executor.write, role, request))

        return write

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    def _withdraw(self) -> None:
        """Have job servers forget the functions that nobody will offer again."""
        for server in self._settings.servers:
            with contextlib.suppress(OSError), AdminClient(server) as admin:
                for own in self._own:
                    # One that knows no such command, or was never offered it, keeps its list.
                    with contextlib.suppress(AdminRefused):
                        admin.drop(own)

    async def _forget_old(self) -> None:
        while True:
            for name, role in self._settings.roles.items():
                if not role.write_connections:
                    continue
                try:
                    await self._in_thread(self._executor.forget_old, name)
                except KitError as error:
                    log.warning("old calls stay", extra={"role": name, "error": error})
            await asyncio.sleep(_FORGET_EVERY_S)
