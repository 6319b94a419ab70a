"""Movers at random under writers who keep a ledger, while workers and servers are killed.

A short form runs with every test run.  ``MOVER_LEDGER_MOVES`` (and ``MOVER_LEDGER_USERS``) make
it long: ``MOVER_LEDGER_MOVES=500 MOVER_LEDGER_USERS=200 make faults``.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from itertools import cycle
from pathlib import Path

import pytest

from lj_services.database import DatabaseError, cluster_role
from lj_services.usercluster.mover import MoveRefused
from lj_services.usercluster.mover.work import CRASHES, ENVIRONMENT
from tests.support import moving
from tests.support.databases import TestSite, settings_of
from tests.support.mariadb import ServerFactory

MOVES = int(os.environ.get("MOVER_LEDGER_MOVES", "16"))
USERS = int(os.environ.get("MOVER_LEDGER_USERS", "6"))
WORKERS = 2
CHECKOUT = Path(__file__).parents[4]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120 + 10 * MOVES)]


class Crew:
    """Worker processes that are told at which step to die, and are replaced."""

    def __init__(self, site: TestSite, folder: Path, chance: random.Random) -> None:
        self.killed = 0
        self._file = folder / "databases.json"
        self._file.write_text(site.settings.model_dump_json())
        self._log = folder / "workers.log"
        self._steps = cycle(chance.sample(CRASHES, len(CRASHES)))
        self._running: list[subprocess.Popen[bytes]] = []

    def keep_up(self) -> None:
        """Replace those that have died."""
        for process in list(self._running):
            if process.poll() is not None:
                self.killed += process.returncode == -9
                self._running.remove(process)
        while len(self._running) < WORKERS:
            # One dies at a named step, in turn; the other one works, or is killed anywhere.
            step = next(self._steps) if len(self._running) == 0 else "never"
            with self._log.open("ab") as log:
                self._running.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "tests.support.lone_mover", str(self._file)],
                        cwd=CHECKOUT,
                        env={**os.environ, ENVIRONMENT: step},
                        stdout=log,
                        stderr=log,
                    )
                )

    def kill_one(self) -> None:
        """At no named step, but any."""
        if self._running:
            self._running[-1].kill()

    def end(self) -> None:
        """Kill all of them."""
        for process in self._running:
            process.kill()
            process.wait()


def test_every_acknowledged_write_is_there_once(
    mariadb_server: ServerFactory, tmp_path: Path
) -> None:
    chance = random.Random(os.environ.get("MOVER_LEDGER_SEED", "1999"))
    servers = [mariadb_server(number) for number in (11, 12)]
    places = {"global": 0, "cluster1": 0, "cluster2": 1, "cluster3": 0}
    with ExitStack() as stack:
        urls = {
            role: stack.enter_context(servers[at].database(f"lj_{role}"))
            for role, at in places.items()
        }
        site = TestSite(settings_of(urls, pool_size=32, lock_wait_s=3), "mariadb")
        stack.callback(site.databases.close)
        moving.prepare(site.databases)
        users = site.users()
        clusters = site.databases.clusters()
        people = [
            users.create(f"user{number}", cluster=chance.choice(clusters)).userid
            for number in range(USERS)
        ]
        boss = moving.worker(site, users, attempts=50)
        crew = Crew(site, tmp_path, chance)
        stack.callback(crew.end)
        writers = {
            userid: stack.enter_context(
                moving.writing(users, userid, pause_s=max(0.01, USERS / 250))
            )
            for userid in people
        }
        asked = 0
        restarted = 0
        until = time.monotonic() + 60 + 5 * MOVES
        while asked < MOVES or crew.killed < MOVES // 8:
            assert time.monotonic() < until, f"{asked} moves asked for, {crew.killed} killed"
            crew.keep_up()
            with suppress(DatabaseError, MoveRefused):
                boss.moves.enqueue(chance.choice(people), chance.choice(clusters))
                asked += 1
            if chance.random() < 0.02:
                crew.kill_one()
            if (asked == MOVES // 2 and not restarted) or chance.random() < 2 / (MOVES + 100):
                server = chance.choice(servers)
                server.kill()
                server.start()
                restarted += 1
            time.sleep(chance.uniform(0, 0.2))
        crew.end()
        settle(boss, until)
        ledgers = {userid: writer.stop() for userid, writer in writers.items()}
        done = boss.moves.list(limit=10_000)
        assert len(done) >= MOVES
        assert {move.state for move in done} == {"done"}, [str(m.error) for m in done if m.error]
        for userid, ledger in ledgers.items():
            home = moving.home(site.databases, userid)
            try:
                moving.assert_kept(site.databases, home, userid, ledger)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{story(boss, userid)}") from None
            for other in clusters:
                if other != home:
                    assert not any(moving.content(site.databases, other, userid).values()), (
                        userid,
                        cluster_role(other),
                    )
            states = moving.fences(site.databases, userid)
            assert states.pop(home) == "active"
            assert set(states.values()) <= {"moved"}
        assert moving.markers(site.databases) == []
        assert restarted > 0
        assert sum(ledger.acknowledged for ledger in ledgers.values()) > MOVES


def story(boss: moving.Worker, userid: int) -> str:
    """What happened to a user, for whoever has to find out why."""
    return "\n".join(
        f"{event.at} {move} {event.state}: {event.message}"
        for move in reversed(boss.moves.list(userid=userid))
        for event in boss.moves.events(move.move_id)
    )


def settle(boss: moving.Worker, until: float) -> None:
    """Let one worker that nobody kills end what the others left."""
    while True:
        try:
            if not boss.moves.list(active=True):
                return
            found = boss.next()
        except DatabaseError:
            found = None
        if found is None:
            assert time.monotonic() < until + 120, [
                (str(move), move.state, move.error) for move in boss.moves.list(active=True)
            ]
            time.sleep(0.05)
        else:
            boss.run(found)
