"""A coordinator and workers for tests: on threads here, or as processes that can be killed.

As a process: ``python -m tests.support.coordinating coordinator|worker DATABASES.json PORT``.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lj_services.daemon import HostPort, run_service
from lj_services.database import Databases, DatabaseSettings, migrate
from lj_services.usercluster import Users
from lj_services.usercluster.coordinator import COMPONENT, AnotherRules
from lj_services.usercluster.coordinator.client import Client, find
from lj_services.usercluster.coordinator.config import CoordinatorSettings
from lj_services.usercluster.coordinator.desk import Desk
from lj_services.usercluster.coordinator.lock import Lock
from lj_services.usercluster.coordinator.server import CoordinatorService
from lj_services.usercluster.coordinator.worker import CoordinatedWorker
from lj_services.usercluster.mover import Worker
from tests.support import moving
from tests.support.databases import TestSite
from tests.support.process import Running, accepts, free_port, spawn, wait_for


def prepare(databases: Databases) -> None:
    """Make the tables of mover and coordinator, and those that tests write to."""
    moving.prepare(databases)
    migrate(databases, "global", [COMPONENT])


def settings_for(port: int, **settings: Any) -> CoordinatorSettings:
    """Quick about everything."""
    return CoordinatorSettings(
        listen=HostPort("127.0.0.1", port),
        **{"poll_s": 0.05, "report_s": 0.05, "drain_timeout_s": 5.0, **settings},
    )


class Coordinating:
    """A coordinator on a thread of this process.

    Args:
        site: prepared.
        settings: over the quick ones.
    """

    def __init__(self, site: TestSite, **settings: Any) -> None:
        self.settings = settings_for(free_port(), **settings)
        # Pools of its own, as a process has.
        self.databases = Databases(site.settings)
        self.lock = Lock(self.databases, str(self.settings.listen))
        self.service: CoordinatorService | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="coordinator")
        self._ready = threading.Event()
        self._end: asyncio.Event | None = None
        self._error: BaseException | None = None

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self.service = CoordinatorService(
            self.settings, Desk(self.databases, moving.FAST, self.lock)
        )
        self.service.console.stop = self._end.set
        self.service._deposed = lambda _why: self._end.set()  # type: ignore[method-assign]
        self.service.coordinator._deposed = self.service._deposed
        try:
            await self.service.start()
            self._ready.set()
            await self._end.wait()
            await self.service.drain()
        finally:
            await self.service.close()

    def start(self) -> None:
        self.lock.take()
        self._thread.start()
        assert self._ready.wait(10)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        if self._loop is not None and self._end is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)
        assert not self._thread.is_alive(), "the coordinator hangs"
        self.databases.close()
        if self._error is not None:
            raise self._error

    def client(self) -> Client:
        """A connection to it."""
        return Client(self.settings.listen)


@contextmanager
def coordinating(site: TestSite, **settings: Any) -> Iterator[Coordinating]:
    """A coordinator for the length of the block."""
    one = Coordinating(site, **settings)
    one.start()
    try:
        yield one
    finally:
        one.stop()


@contextmanager
def working(
    site: TestSite, count: int = 1, slots: int = 2, drain_s: float = 5.0, **settings: Any
) -> Iterator[list[CoordinatedWorker]]:
    """Workers on threads, who find the coordinator through ``global``."""
    workers = [
        CoordinatedWorker(
            Worker(
                site.databases,
                site.users(),
                moving.FAST.model_copy(update=settings),
                moving.RULES,
                name=f"worker{number}",
            ),
            lambda: find(site.databases),
            slots,
            drain_s,
        )
        for number in range(count)
    ]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a worker hangs"


@contextmanager
def process(
    role: str,
    site: TestSite,
    folder: Path,
    port: int,
    *,
    env: dict[str, str] | None = None,
    rules: dict[str, Any] | None = None,
) -> Iterator[Running]:
    """A coordinator or a worker (by these rules over the quick ones) as a process to be killed."""
    file = folder / "databases.json"
    if not file.exists():
        file.write_text(site.settings.model_dump_json())
    with spawn(
        [
            *(sys.executable, "-m", "tests.support.coordinating", role, file, str(port)),
            json.dumps(rules or {}),
        ],
        folder / f"{role}.log",
        ready=(lambda: accepts(port)) if role == "coordinator" else (lambda: True),
        env=env,
    ) as running:
        yield running


def settle(site: TestSite, *, timeout_s: float = 60.0) -> None:
    """Wait until every move is over, purges and all."""
    moves = moving.worker(site).moves

    def all_over() -> bool:
        return not moves.list(active=True, limit=1)

    try:
        wait_for(all_over, "all moves to be over", timeout_s=timeout_s)
    except AssertionError:
        lines = [
            f"{move} {move.state} {move.ending} owner {move.owner} {move.error}: "
            + "; ".join(f"{event.state}: {event.message}" for event in moves.events(move.move_id))
            for move in moves.list(active=True)
        ]
        raise AssertionError("\n".join(lines)) from None


def main(role: str, file: Path, port: int, rules: dict[str, Any]) -> None:
    """Be one or the other until the end."""
    databases = Databases(DatabaseSettings.model_validate_json(file.read_text()))
    if role == "coordinator":
        settings = settings_for(port)
        lock = Lock(databases, str(settings.listen))
        while True:
            try:
                lock.take()
                break
            except AnotherRules:
                time.sleep(0.05)
        sys.exit(
            run_service(
                "coordinator",
                lambda now: CoordinatorService(now, Desk(databases, moving.FAST, lock)),
                lambda: settings,
            )
        )
    users = Users(databases, None, moving.RULES)
    worker = Worker(databases, users, moving.FAST.model_copy(update=rules), moving.RULES)
    coordinated = CoordinatedWorker(worker, lambda: find(databases), 2, 5.0)
    signal.signal(signal.SIGTERM, lambda _number, _frame: coordinated.stop())
    coordinated.run()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
