"""What befalls a site whose users are moved: processes and servers are killed, connections are cut,
a disk is full.  One of each is drawn at a time, and what has happened is counted."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import ExitStack, suppress
from itertools import cycle
from pathlib import Path

import mysql.connector

from lj_services.usercluster.mover.work import CRASHES, ENVIRONMENT
from tests.support.coordinating import process
from tests.support.databases import TestSite
from tests.support.mariadb import MariaDB
from tests.support.process import Running, free_port

_ONLY_CHUNK_BY_CHUNK = {"wiped", "chunk"}
"""Steps that users who go at once do not come by."""


class Crew:
    """A coordinator and workers as processes; those that die are replaced.

    Args:
        site: where they work.
        folder: for their logs.
        chance: what is drawn.
        workers: how many.
    """

    def __init__(self, site: TestSite, folder: Path, chance: random.Random, workers: int) -> None:
        self.killed: Counter[str] = Counter()
        """How often a worker died at which step, or ``anywhere``."""
        self.coordinators_killed = 0
        self._site = site
        self._folder = folder
        self._chance = chance
        self._steps = cycle(chance.sample(CRASHES, len(CRASHES)))
        self._count = workers
        self._started = 0
        self._port = free_port()
        self._coordinator: tuple[Running, ExitStack] | None = None
        self._workers: list[tuple[Running, ExitStack, str]] = []
        self._ending = False

    def keep_up(self) -> None:
        """Replace those that have died."""
        if self._coordinator is not None and self._coordinator[0].process.poll() is not None:
            self._coordinator[1].close()
            self._coordinator = None
        if self._coordinator is None:
            stack = ExitStack()
            running = stack.enter_context(
                process("coordinator", self._site, self._folder, self._port)
            )
            self._coordinator = running, stack
        for one in list(self._workers):
            running, stack, step = one
            if running.process.poll() is not None:
                self.killed[step] += running.process.returncode == -9
                stack.close()
                self._workers.remove(one)
        while len(self._workers) < self._count:
            # One dies at a named step, in turn; the others work, or are killed anywhere.
            doomed = not self._ending and all(step == "anywhere" for *_, step in self._workers)
            self._start(next(self._steps) if doomed else "anywhere")

    def _start(self, step: str) -> None:
        rules = {
            # Every other one as an operator would have it, the others record each step.
            "record_within_ms": self._chance.choice((0, 200)),
            "at_once_rows": 0 if step in _ONLY_CHUNK_BY_CHUNK else self._chance.choice((0, 1000)),
            "feed_linger_s": self._chance.choice((0, 5)),
        }
        stack = ExitStack()
        running = stack.enter_context(
            process("worker", self._site, self._folder, 0, env={ENVIRONMENT: step}, rules=rules)
        )
        self._workers.append((running, stack, step))

    def kill_worker(self) -> None:
        """At no named step, but any."""
        some = [running for running, _, step in self._workers if step == "anywhere"]
        if some:
            self._chance.choice(some).process.kill()

    def kill_coordinator(self) -> None:
        """At any moment."""
        if self._coordinator is not None:
            self._coordinator[0].process.kill()
            self.coordinators_killed += 1

    def live_in_peace(self) -> None:
        """From now on nobody is told to die."""
        self._ending = True
        for running, _, step in self._workers:
            if step != "anywhere":
                running.process.kill()
                running.process.wait()
        self.keep_up()

    def end(self) -> None:
        """Kill all of them."""
        for running, stack, _ in self._workers:
            running.kill()
            stack.close()
        self._workers.clear()
        if self._coordinator is not None:
            self._coordinator[0].kill()
            self._coordinator[1].close()
            self._coordinator = None


class Mishaps:
    """Draws what goes wrong next.

    Args:
        crew: the processes.
        servers: the databases; the last one's disk can be filled.
        chance: what is drawn.
    """

    def __init__(self, crew: Crew, servers: list[MariaDB], chance: random.Random) -> None:
        self.servers_killed = 0
        self.connections_cut = 0
        self.disks_filled = 0
        self._crew = crew
        self._servers = servers
        self._chance = chance
        self._full_until = 0.0
        self._turn = cycle(servers)

    def befall(self, what: str) -> None:
        """Let it happen: ``worker``, ``coordinator``, ``server``, ``connections`` or ``disk``."""
        if what == "worker":
            self._crew.kill_worker()
        elif what == "coordinator":
            self._crew.kill_coordinator()
        elif what == "server":
            server = next(self._turn)
            self.free_disk()  # a server that starts needs some
            server.kill()
            time.sleep(self._chance.uniform(0, 0.5))
            server.start()
            self.servers_killed += 1
        elif what == "connections":
            self._cut(self._chance.choice(self._servers))
        elif what == "disk" and not self._full_until:
            self._servers[-1].fill_disk()
            self._full_until = time.monotonic() + self._chance.uniform(1.0, 3.0)
            self.disks_filled += 1

    def pass_by(self) -> None:
        """Make room again, when it is time."""
        if self._full_until and time.monotonic() > self._full_until:
            self.free_disk()

    def free_disk(self) -> None:
        """Make room again."""
        self._servers[-1].free_disk()
        self._full_until = 0.0

    def _cut(self, server: MariaDB) -> None:
        """Every other connection to a server, whoever's it is and whatever it is doing."""
        with suppress(mysql.connector.Error):
            for (number,) in server.query(
                "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() "
                "AND command <> 'Daemon'"
            ):
                if self._chance.random() < 0.5:
                    with suppress(mysql.connector.Error):
                        server.query(f"KILL {number}")
                        self.connections_cut += 1
