"""The master: starts workers, replaces those that die, hands over to new ones, ends them.

Theory of operation
===================

A worker that dies is replaced at once.  One that dies within `YOUNG_S` seconds is likely to do
so again: the next one waits, longer each time, up to `LONGEST_PAUSE_S`.  What waits at its
socket meanwhile is served by the next one.

A restart starts a whole second generation, which reads the configuration file anew.  Only when
all of it can serve clients does the old one drain: it listens no more, tells each client with
its next answer that the connection ends, and closes idle ones after `IDLE_S`, so that no
request is on its way to a connection that is being closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Collection, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from lj_services.daemon import ConfigError, drop_privileges
from lj_services.perlbal.config import BalancerSettings
from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.listening import bind
from lj_services.perlbal.management import Console
from lj_services.perlbal.server import configuration, end, remove_pidfile, write_pidfile
from lj_services.perlbal.values import Listen
from lj_services.perlbal.workers.console import WorkersConsole
from lj_services.perlbal.workers.journal import Journal
from lj_services.perlbal.workers.metrics import REGISTRY, WorkersMetrics
from lj_services.perlbal.workers.process import Worker
from lj_services.perlbal.workers.relay import Relay
from lj_services.perlbal.workers.sockets import SocketKeeper

YOUNG_S: Final = 2.0
LONGEST_PAUSE_S: Final = 16.0
IDLE_S: Final = 5.0

log = logging.getLogger(__name__)


class Master:
    """N workers, from their start to their end; what `lj_services.daemon.run_service` runs.

    Attributes:
        generation: of workers; grows with every restart.
        journal: what consoles have changed.
        died: how many workers have died and were replaced.
        changing: held while something is changed, and while workers start.
    """

    def __init__(self, settings: BalancerSettings) -> None:
        self.settings = settings
        self.generation = 1
        self.journal = Journal()
        self.died = 0
        self.changing = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._keeper = SocketKeeper(settings.workers, self._console_at)
        self._relay = Relay()
        self._console = WorkersConsole(self)
        self._consoles: dict[Listen, socket.socket] = {}
        self._servers: dict[Listen, asyncio.Server] = {}
        self._started = False
        self._configuration = ("", "")
        self._workers: dict[int, Worker] = {}
        self._old: set[Worker] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._metrics = WorkersMetrics(self._figures)
        self._pidfile: Path | None = None
        self._ending = False
        self._at_once = False
        self._restarting = asyncio.Lock()

    @property
    def ready(self) -> list[Worker]:
        """The workers that serve clients and will go on, by number."""
        return [worker for _, worker in sorted(self._workers.items()) if worker.ready]

    @property
    def all(self) -> list[Worker]:
        """Those, those that start, and those that drain."""
        old = sorted(self._old, key=lambda worker: worker.pid)
        return [worker for _, worker in sorted(self._workers.items())] + old

    @property
    def listens_on(self) -> str:
        """The addresses of all services, and of the console."""
        return ", ".join(str(listen) for listen in (*self._keeper.addresses, *self._consoles))

    # -- life ---------------------------------------------------------------------

    async def start(self) -> None:
        """Start all workers.

        Raises:
            ConfigError: the configuration is refused.
            OSError: a worker can't be started.
        """
        self._configuration = configuration(self.settings)
        self._workers = await self._generation(self.generation)
        wanted = self._workers[1].pidfile
        if wanted is not None:
            self._pidfile = Path(wanted)
            write_pidfile(self._pidfile)
        drop_privileges(self.settings.user, self.settings.group)
        REGISTRY.register(self._metrics)
        self._loop.add_signal_handler(signal.SIGUSR2, self._restart_asked)
        for worker in self._workers.values():
            self._watch(worker)
        await self._open_consoles()

    async def _generation(self, generation: int) -> dict[int, Worker]:
        """As many workers as are wanted, all of them ready; or none."""
        made = [Worker(number, generation) for number in range(1, self.settings.workers + 1)]
        given = self._given()
        started = await asyncio.gather(
            *(worker.start(self._keeper, self._relay, given) for worker in made),
            return_exceptions=True,
        )
        for result in started:
            if isinstance(result, BaseException):
                for worker in made:
                    worker.kill()
                raise result
        return {worker.number: worker for worker in made}

    def _given(self) -> dict[str, object]:
        text, name = self._configuration
        return {"config": text, "name": name, "changes": list(self.journal)}

    async def drain(self) -> None:
        """Stop all workers, each when its clients have their answers."""
        self._ending = True
        self._stop_listening()
        for worker in self.all:
            worker.signal(signal.SIGTERM)
        if not self._at_once:
            codes = await asyncio.gather(*(asyncio.shield(worker.done) for worker in self.all))
            if any(codes):
                log.warning("workers have ended with %s", codes)

    def _stop_listening(self) -> None:
        for server in self._servers.values():
            server.close()
        self._keeper.close()

    async def close(self) -> None:
        """End what is still running."""
        self._ending = True
        self._stop_listening()
        left = [worker for worker in self.all if hasattr(worker, "done")]
        for worker in left:
            worker.kill()
        for task in self._tasks:
            task.cancel()
        self._relay.close()
        await asyncio.gather(*(worker.done for worker in left))
        with contextlib.suppress(KeyError):
            REGISTRY.unregister(self._metrics)
        if self._pidfile is not None:
            remove_pidfile(self._pidfile)

    def reload(self, settings: BalancerSettings) -> None:
        """Have all workers read certificates and node files again.

        Raises:
            ConfigError: a setting has changed that needs a new start.
        """
        for name in ("workers", "user", "group", "config", "max_connections", "metrics_listen"):
            if getattr(settings, name) != getattr(self.settings, name):
                raise ConfigError(f"{name}: can't change while workers run; stop and start")
        self._spawn(self._reload())

    async def _reload(self) -> None:
        for worker in self.ready:
            with contextlib.suppress(ConnectionError, TimeoutError):
                answer = await worker.ask({"do": "reload"})
                if "refused" in answer:
                    log.error("worker %d: %s", worker.number, answer["refused"])

    def shut_down(self, graceful: bool, seconds: float | None) -> None:
        """SHUTDOWN on a console."""
        self._at_once = not graceful
        end(self._loop, graceful, seconds)

    # -- workers come and go ------------------------------------------------------

    def _watch(self, worker: Worker) -> None:
        self._spawn(self._replace(worker))

    async def _replace(self, worker: Worker) -> None:
        """Wait for a worker's end; start another one if it was not meant to end."""
        pause_s = 0.0
        while True:
            code = await asyncio.shield(worker.done)
            if self._ending or self._workers.get(worker.number) is not worker:
                return
            self.died += 1
            lived_s = time.time() - worker.started
            pause_s = 0.0 if lived_s >= YOUNG_S else min(max(2 * pause_s, 1.0), LONGEST_PAUSE_S)
            log.error(
                "worker %d has died; another one takes its place",
                worker.number,
                extra={"pid": worker.pid, "exit_code": code, "pause_s": pause_s},
            )
            await asyncio.sleep(pause_s)
            if self._ending or self._workers.get(worker.number) is not worker:
                return
            worker = Worker(worker.number, self.generation)
            try:
                async with self.changing:
                    await worker.start(self._keeper, self._relay, self._given())
            except (OSError, ConfigError) as error:
                log.error("worker %d can't start: %s", worker.number, error)
                worker.kill()
            self._workers[worker.number] = worker

    def _restart_asked(self) -> None:
        self._spawn(self._restart_for_signal())

    async def _restart_for_signal(self) -> None:
        try:
            await self.restart()
        except CommandError as error:
            log.error("%s", error)

    async def restart(self) -> None:
        """Start new workers with the configuration file as it is now; then drain the old ones.

        Raises:
            CommandError: they can't start; the old ones go on as if nothing had happened.
        """
        if self._restarting.locked():
            raise CommandError("a restart is going on already")
        async with self._restarting, self.changing:
            before = self._configuration, self.journal
            try:
                self._configuration = configuration(self.settings)
                self.journal = self.journal.drains()
                workers = await self._generation(self.generation + 1)
            except (OSError, ConfigError) as error:
                self._configuration, self.journal = before
                raise CommandError(f"restart refused, the old workers go on: {error}") from None
            old, self._workers = self._workers, workers
            self.generation += 1
            self._keeper.forget_others(self.generation)
            self.listen_only(workers[1].listens)
            for worker in workers.values():
                self._watch(worker)
            for worker in old.values():
                self._old.add(worker)
                self._spawn(self._retire(worker))
            log.info("restarted", extra={"generation": self.generation})

    def listen_only(self, addresses: Collection[str]) -> None:
        """Give up the sockets of addresses where no service is any more, and no console.

        Args:
            addresses: of services, consoles among them, as text.
        """
        self._keeper.keep_only(addresses)
        for listen in [each for each in self._consoles if str(each) not in addresses]:
            listening, server = self._consoles.pop(listen), self._servers.pop(listen, None)
            (server or listening).close()

    async def _retire(self, worker: Worker) -> None:
        await worker.retire(IDLE_S, self.settings.drain_timeout_s)
        self._old.discard(worker)

    def _spawn(self, coroutine: Coroutine[Any, Any, object]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- console and figures ------------------------------------------------------

    def _console_at(self, listen: Listen) -> None:
        """Have a console at an address; the first worker that asks for it makes it."""
        if listen in self._consoles:
            return
        self._consoles[listen] = bind(listen)
        if self._started:
            self._spawn(self._open_consoles())

    async def _open_consoles(self) -> None:
        """Let operators in: not before there are workers to speak to."""
        self._started = True
        for listen, listening in list(self._consoles.items()):
            if listen in self._consoles and listen not in self._servers:
                self._servers[listen] = await self._loop.create_server(
                    lambda: Console(self._console, "management"), sock=listening
                )

    def _figures(self) -> Mapping[int, str]:
        """Each worker's figures; called in the thread that answers a scrape."""
        asked = asyncio.run_coroutine_threadsafe(self._ask_figures(), self._loop)
        return asked.result(10.0)

    async def _ask_figures(self) -> dict[int, str]:
        texts = {}
        for worker in self.ready:
            with contextlib.suppress(ConnectionError, TimeoutError):
                texts[worker.number] = (await worker.ask({"do": "metrics"}))["text"]
        return texts
