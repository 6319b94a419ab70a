"""Movers at random under writers who keep a ledger, while everything is killed, cut and filled.

A short form runs with every test run; `make faults` runs the long one, of 500 moves and 200 users
(``MOVER_LEDGER_MOVES``, ``MOVER_LEDGER_USERS``; ``MOVER_LEDGER_SEED`` draws other mishaps).
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from sqlalchemy import func, select

from lj_services.database import DatabaseError, cluster_role
from lj_services.usercluster.mover import Move, MoveError
from lj_services.usercluster.mover.tables import (
    CANCELLED,
    DONE,
    FAILED,
    ROLLED_BACK,
    SWITCHED,
    user_move,
)
from lj_services.usercluster.mover.work import CRASHES
from lj_services.usercluster.tables import user
from tests.support import moving
from tests.support.coordinating import prepare
from tests.support.databases import TestSite, settings_of
from tests.support.ledger import assert_kept, writing
from tests.support.mariadb import ServerFactory
from tests.support.mishaps import Crew, Mishaps

MOVES = int(os.environ.get("MOVER_LEDGER_MOVES", "24"))
USERS = int(os.environ.get("MOVER_LEDGER_USERS", "8"))
LONG = MOVES >= 500
MOVES_A_MISHAP = min(5, MOVES // 6)
WORKERS = 3
ROOM_MB = 400
WRITES_A_SECOND = 100
KINDS = ("worker", "connections", "coordinator", "disk", "server")
"""What befalls the site, in turn; a worker dies at a named step at any time besides."""
PATIENT = {"freeze_limit_ms": 2000, "freeze_lock_ms": 500}
"""The machine is busy with everything at once; how long users are held is for benchmarks to say."""

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300 + 10 * MOVES)]


class Orders:
    """What operators ask for: moves, moves back, an end."""

    def __init__(self, boss: moving.Worker, people: list[int], chance: random.Random) -> None:
        self.asked = 0
        self._boss = boss
        self._people = people
        self._chance = chance
        self._clusters = boss.moves._databases.clusters()

    def give(self) -> None:
        """One order, if it can be had."""
        chance, moves = self._chance, self._boss.moves
        with suppress(DatabaseError, MoveError):
            if chance.random() < 0.1 and (back := self._to_be_undone()) is not None:
                moves.enqueue(back.userid, back.src, back_of=back.move_id, options=PATIENT)
            else:
                who = chance.choice(self._people)
                moves.enqueue(who, chance.choice(self._clusters), options=PATIENT)
            self.asked += 1
            if chance.random() < 0.03:
                active = moves.list(active=True)
                moves.end(chance.choice(active).move_id, CANCELLED, "somebody thought better of it")

    def _to_be_undone(self) -> Move | None:
        return next(iter(self._boss.moves.list(states=(SWITCHED,), limit=1)), None)


def test_every_acknowledged_write_is_there_once(
    mariadb_server: ServerFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(os.environ.get("MOVER_LEDGER_SEED", "1999"))
    servers = [mariadb_server(11), mariadb_server(12), mariadb_server(13, room_mb=ROOM_MB)]
    places = {"global": 0, "cluster1": 0, "cluster2": 1, "cluster3": 2}
    with ExitStack() as stack:
        urls = {
            role: stack.enter_context(servers[at].database(f"lj_{role}"))
            for role, at in places.items()
        }
        site = TestSite(settings_of(urls, pool_size=32, lock_wait_s=3), "mariadb")
        stack.callback(site.databases.close)
        prepare(site.databases)
        users = site.users()
        clusters = site.databases.clusters()
        people = [
            users.create(f"user{number}", cluster=chance.choice(clusters)).userid
            for number in range(USERS)
        ]
        boss = moving.worker(site, users)
        crew = Crew(site, tmp_path, chance, WORKERS)
        stack.callback(crew.end)
        mishaps = Mishaps(crew, servers, chance)
        stack.callback(mishaps.free_disk)
        orders = Orders(boss, people, chance)
        pause_s = max(0.02, USERS / WRITES_A_SECOND)
        writers = {
            userid: stack.enter_context(writing(users, userid, pause_s)) for userid in people
        }
        began = time.monotonic()
        until = began + 120 + 8 * MOVES
        befallen = 0
        while orders.asked < MOVES or sum(crew.killed.values()) < (2 * len(CRASHES) if LONG else 3):
            assert time.monotonic() < until, f"{orders.asked} asked for, {crew.killed} killed"
            crew.keep_up()
            mishaps.pass_by()
            if waiting(site) < 3 * WORKERS:
                orders.give()
            if orders.asked >= (befallen + 1) * MOVES_A_MISHAP:
                mishaps.befall(KINDS[befallen % len(KINDS)])
                befallen += 1
            time.sleep(chance.uniform(0, 0.1))
        mishaps.free_disk()
        crew.live_in_peace()
        settle(boss, crew, until)
        ledgers = {userid: writer.stop() for userid, writer in writers.items()}
        crew.end()

        assert_all_over(boss)
        for userid, ledger in ledgers.items():
            try:
                assert_one_home(site, userid)
                assert_kept(site.databases, moving.home(site.databases, userid), userid, ledger)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{story(boss, userid)}") from None
        assert moving.markers(site.databases) == []
        figures = {
            "moves asked for": orders.asked,
            "seconds": round(time.monotonic() - began),
            "by their end": ends(site),
            "acknowledged writes": sum(one.acknowledged for one in ledgers.values()),
            "unanswered writes": sum(one.unanswered for one in ledgers.values()),
            "workers killed": dict(sorted(crew.killed.items())),
            "coordinators killed": crew.coordinators_killed,
            "servers killed": mishaps.servers_killed,
            "connections cut": mishaps.connections_cut,
            "disks filled": mishaps.disks_filled,
            "longest wait of a writer, s": max(max(one.gaps) for one in ledgers.values()),
        }
        with capsys.disabled():
            if LONG:
                sys.stdout.write(json.dumps(figures, indent=2) + "\n")
        assert figures["acknowledged writes"] > MOVES
        for happened in (crew.coordinators_killed, mishaps.servers_killed, mishaps.disks_filled):
            assert happened > 0
        assert mishaps.connections_cut > 0
        if LONG:
            assert {step for step in CRASHES if not crew.killed[step]} == set()


def waiting(site: TestSite) -> int:
    """How many moves wait before their commit point: not so many that each waits for long."""
    with suppress(DatabaseError), site.databases.read("global") as connection:
        query = select(func.count()).where(user_move.c.active_userid.is_not(None))
        return int(connection.execute(query).scalar_one())
    return 0


def ends(site: TestSite) -> dict[str, int]:
    """How many moves came to which end."""
    with site.databases.read("global") as connection:
        rows = connection.execute(
            select(user_move.c.state, func.count()).group_by(user_move.c.state)
        )
        return {state: int(count) for state, count in rows}


def settle(boss: moving.Worker, crew: Crew, until: float) -> None:
    """Wait until every move is over, purges and all."""
    while True:
        crew.keep_up()
        with suppress(DatabaseError):
            left = boss.moves.list(active=True)
            if not left:
                return
            assert time.monotonic() < until + 240, "\n".join(
                f"{move} {move.state}: {move.error}\n{story(boss, move.userid)}" for move in left
            )
        time.sleep(0.1)


def assert_all_over(boss: moving.Worker) -> None:
    """Every move is done, or ended as somebody asked or the full disk made it."""
    for move in boss.moves.list(limit=100_000):
        said = f"{move} {move.state}: {move.error}"
        assert move.state in (DONE, ROLLED_BACK, CANCELLED, FAILED), said
        if move.state == FAILED:
            assert "MB free" in str(move.error) or "has no room" in str(move.error), said
        homes = [e for e in boss.moves.events(move.move_id) if e.message.endswith("is home")]
        assert len(homes) == (move.state in (DONE, ROLLED_BACK)), said


def assert_one_home(site: TestSite, userid: int) -> None:
    """One cluster has the user, with the epoch of `global`, and no other one a row of theirs."""
    home = moving.home(site.databases, userid)
    for other in site.databases.clusters():
        if other != home:
            assert not any(moving.content(site.databases, other, userid).values()), (
                userid,
                cluster_role(other),
            )
    states = moving.fences(site.databases, userid)
    assert states.pop(home) == "active"
    assert set(states.values()) <= {"moved"}
    with site.databases.read("global") as connection:
        epoch = connection.scalar(select(user.c.epoch).where(user.c.userid == userid))
    assert moving.epoch(site.databases, home, userid) == epoch


def story(boss: moving.Worker, userid: int) -> str:
    """What happened to a user, for whoever has to find out why."""
    return "\n".join(
        f"{event.at} {move} {event.state}: {event.message}"
        for move in reversed(boss.moves.list(userid=userid))
        for event in boss.moves.events(move.move_id)
    )
