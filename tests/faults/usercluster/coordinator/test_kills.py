"""Coordinator and workers are killed while moves run: nothing is lost, nothing done twice."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from lj_services.usercluster.coordinator.client import poke
from lj_services.usercluster.mover.tables import CATCHING_UP, DONE, FINAL, FROZEN
from tests.support import moving
from tests.support.coordinating import coordinating, prepare, process, settle, working
from tests.support.databases import TestSite, site_on_mariadb
from tests.support.ledger import assert_kept, writing
from tests.support.mariadb import ServerFactory
from tests.support.process import Running, free_port, wait_for

pytestmark = pytest.mark.faults

KILLS = 8
USERS = 10
WRITERS = 3
PATIENT = {"freeze_limit_ms": 5000, "freeze_lock_ms": 1000}
"""Options of moves: the machine is busy with everything at once."""


@pytest.fixture
def ready(site: TestSite) -> TestSite:
    prepare(site.databases)
    return site


class Killable:
    """A process that is there again after it was killed."""

    def __init__(self, role: str, site: TestSite, folder: Path, port: int) -> None:
        self.role = role
        folder.mkdir()
        self._start = lambda: process(role, site, folder, port)
        self._stack = ExitStack()
        self.running: Running = self._stack.enter_context(self._start())

    def kill(self) -> None:
        """SIGKILL, and start it again."""
        self.running.kill()
        self._stack.close()
        self.running = self._stack.enter_context(self._start())

    def end(self) -> int:
        """SIGTERM."""
        status = self.running.terminate(30)
        self._stack.close()
        return status


def test_kill_at_random_while_moves_run(ready: TestSite, tmp_path: Path) -> None:
    site, port, draw = ready, free_port(), random.Random(7)
    users = site.users()
    userids = [users.create(f"user{number}", cluster=1).userid for number in range(USERS)]
    for userid in userids:
        moving.fill(site.databases, 1, userid, 0 if userid in userids[:WRITERS] else 300)
    before = {userid: moving.content(site.databases, 1, userid) for userid in userids}
    moves = moving.worker(site).moves
    asked = [moves.enqueue(userid, 2, options=PATIENT).move_id for userid in userids]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(writing(users, userid, 0.01)) for userid in userids[:WRITERS]
        ]
        processes = [
            Killable("coordinator", site, tmp_path / "coordinator", port),
            Killable("worker", site, tmp_path / "worker1", port),
            Killable("worker", site, tmp_path / "worker2", port),
        ]
        try:
            wait_for(lambda: any(m.owner for m in moves.list()), "the moves to begin")
            for kill in range(KILLS):
                # The coordinator every other time, else one of the workers.
                processes[0 if kill % 2 else draw.choice((1, 2))].kill()
                asked += _more(site, userids, draw)
                time.sleep(draw.uniform(0.2, 0.8))
            settle(site, timeout_s=90)
            ledgers = [writer.stop() for writer in writers]
        finally:
            statuses = [one.end() for one in reversed(processes)]
    assert statuses == [0, 0, 0]
    assert sorted(m.move_id for m in moves.list(limit=1000)) == sorted(asked)
    for move_id in asked:
        found = moves.get(move_id)
        assert found.state == DONE, f"{found}: {found.state}, {found.error}"
        switches = [e for e in moves.events(move_id) if e.message.endswith("is home")]
        assert len(switches) == 1, f"{found}: switched {len(switches)} times"
    for userid in userids:
        home = moving.home(site.databases, userid)
        states = moving.fences(site.databases, userid)
        assert states.pop(home) == "active"
        assert set(states.values()) <= {"moved"}
        other = 3 - home
        assert not any(moving.content(site.databases, other, userid).values())
        if userid not in userids[:WRITERS]:
            assert moving.content(site.databases, home, userid) == before[userid]
    for userid, ledger in zip(userids, ledgers, strict=False):
        assert_kept(site.databases, moving.home(site.databases, userid), userid, ledger)
        assert ledger.acknowledged > 20
    assert moving.markers(site.databases) == []


def _more(site: TestSite, userids: list[int], draw: random.Random) -> list[int]:
    """Ask for some users to move on, who are not moving."""
    moves = moving.worker(site).moves
    busy = {m.userid for m in moves.list(active=True, limit=1000)}
    idle = [userid for userid in userids if userid not in busy]
    return [
        moves.enqueue(userid, 3 - moving.home(site.databases, userid), options=PATIENT).move_id
        for userid in draw.sample(idle, min(2, len(idle)))
    ]


def test_a_held_user_is_freed_without_any_worker(ready: TestSite, tmp_path: Path) -> None:
    """The watchdog: the only worker dies while the user's writes are held."""
    site = ready
    users = site.users()
    userid = users.create("bob", cluster=1).userid
    moving.fill(site.databases, 1, userid, 50)
    moves = moving.worker(site).moves
    with coordinating(site) as coordinator:
        moves.enqueue(userid, 2)
        with process("worker", site, tmp_path, 0, env={"MOVER_CRASH_AT": "froze"}) as worker:
            wait_for(lambda: worker.process.poll() is not None, "the worker to die", timeout_s=40)
        assert FROZEN in {event.state for event in moves.events(1)}
        died = time.monotonic()
        with users.writing(userid):  # waits for as long as the user is held
            freed_s = time.monotonic() - died
        assert freed_s < 3.0
        wait_for(
            lambda: "freed by the coordinator" in str(moves.events(1)), "the coordinator's note"
        )
        assert moves.get(1).state == CATCHING_UP
        client = coordinator.client()
        wait_for(lambda: "no worker is connected" in client.call("show", 1).text, "its schedule")
        client.close()
        with working(site):
            settle(site)
    assert moves.get(1).state == DONE
    assert moving.home(site.databases, userid) == 2


def test_moves_go_on_without_their_coordinator(ready: TestSite) -> None:
    site = ready
    userid = site.users().create("bob", cluster=1).userid
    moving.fill(site.databases, 1, userid, 400)
    moves = moving.worker(site).moves
    with working(site) as _:
        with coordinating(site) as coordinator:
            client = coordinator.client()
            client.call("set_rate", "src:1", rows_s=400)
            moves.enqueue(userid, 2)
            assert poke(site.databases)
            wait_for(lambda: moves.get(1).owner is not None, "the move to begin")
            client.close()
        # Nobody is there to tell it anything, and it goes on by what was told last.
        wait_for(lambda: moves.get(1).switched_at is not None, "the cut-over", timeout_s=30)
        waits = moves.enqueue(site.users().create("eve", cluster=1).userid, 2)
        with coordinating(site):
            settle(site)
    assert moves.get(waits.move_id).state in FINAL
    assert moves.get(1).claim == moves.get(waits.move_id).claim == 2  # the move, and its purge


def test_a_database_that_goes_away(mariadb_server: ServerFactory, tmp_path: Path) -> None:
    """mariadbd is killed: the lock goes with its connection, and is taken again."""
    server = mariadb_server()
    with site_on_mariadb(server) as site:
        prepare(site.databases)
        userids = [site.users().create(f"user{n}", cluster=1).userid for n in range(3)]
        moves = moving.worker(site).moves
        with coordinating(site) as coordinator, working(site):
            assert coordinator.service is not None
            core, term = coordinator.service.coordinator, coordinator.lock.term
            server.kill()
            wait_for(
                lambda: core.unable is not None,
                "the coordinator to notice",
            )
            server.start()
            wait_for(
                lambda: core.unable is None,
                "the lock to be held again",
            )
            assert coordinator.lock.term > term
            for userid in userids:
                moves.enqueue(userid, 2)
            settle(site)
        assert {m.state for m in moves.list()} == {DONE}
