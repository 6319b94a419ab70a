"""From writes in a real MariaDB's binary log to the rates that balancing plans by."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from sqlalchemy import insert, select, text

from lj_services.database import migrate
from lj_services.usercluster import UserSettings
from lj_services.usercluster.balance import store
from lj_services.usercluster.balance.loading import load_snapshot
from lj_services.usercluster.mover import fences
from lj_services.usercluster.mover import worker as worker_module
from lj_services.usercluster.mover.binlog import Place, here
from lj_services.usercluster.mover.feed import Feed
from lj_services.usercluster.mover.rates import MEMORY_S, WriteRates
from lj_services.usercluster.mover.rows_server import ServerRows
from lj_services.usercluster.mover.tables import now_ms, user_move
from tests.support import moving
from tests.support.databases import TestSite
from tests.support.moving import note
from tests.support.process import wait_for

pytestmark = pytest.mark.interop

SIZES = UserSettings.model_validate(
    {"clusters": {number: {"capacity": 1 << 20} for number in (1, 2)}}
)


@pytest.fixture
def one(mariadb_site: TestSite) -> moving.Fixture:
    fixture = moving.Fixture(mariadb_site)
    migrate(fixture.databases, "global", [store.COMPONENT])
    with fixture.databases.write("global") as connection:
        sizes = {fixture.bob: (20, 2000), fixture.carl: (0, 0)}
        store.record_sizes(connection, 1, sizes, 1)
    return fixture


def place(one: moving.Fixture) -> Place:
    with one.databases.read("cluster1") as connection:
        return here(connection)


def watch(one: moving.Fixture, feed: Feed, start: Place, end: Place | None = None) -> None:
    """Read the log to its present end."""
    one.move = one.move or one.claimed()
    fences.stake(one.databases, "cluster1", one.move)
    with one.databases.read("cluster1") as connection:
        schema = ServerRows().schema(connection, "cluster 1")
    claim = (one.move.move_id, one.move.claim)
    subscription = feed.subscribe(one.bob, schema, start, claim, end)
    with one.databases.write("cluster1") as connection:
        marker = fences.raise_marker(connection, one.move)
    assert subscription.wait(marker, 10)
    # The marker's transaction is the last one, and of no table that counts.
    subscription.close()


def rates(one: moving.Fixture) -> dict[int, float]:
    with one.databases.read("global", definitive=True) as connection:
        columns = store.balance_user.c
        return {
            row[0]: row[1] for row in connection.execute(select(columns.userid, columns.write_rate))
        }


def post(one: moving.Fixture, userid: int, *noteids: int) -> None:
    with one.users.writing(userid) as connection:
        for noteid in noteids:
            connection.execute(
                insert(note).values(userid=userid, noteid=noteid, version=0, body="")
            )


def test_writes_of_everybody_are_counted_once(one: moving.Fixture) -> None:
    feed = Feed(one.databases.writer("cluster1"))
    start = place(one)
    post(one, one.bob, 101, 102)
    post(one, one.carl, 101, 102, 103)
    watch(one, feed, start)
    writes, seconds = feed.take_writes()
    assert writes == {one.bob: 2, one.carl: 3}
    assert seconds > 0
    assert feed.take_writes() == ({}, 0.0)
    assert feed.watched_s == 0.0


def test_a_log_that_is_read_again_is_not_counted_again(one: moving.Fixture) -> None:
    feed = Feed(one.databases.writer("cluster1"))
    start = place(one)
    post(one, one.carl, 101)
    with one.databases.read("cluster1") as connection:
        schema = ServerRows().schema(connection, "cluster 1")
    first = feed.subscribe(one.carl, schema, place(one), (0, 0))
    post(one, one.carl, 102)
    # An earlier start rewinds the one reader of both.
    watch(one, feed, start)
    first.close()
    assert feed.take_writes()[0] == {one.carl: 1}


def test_what_was_written_before_the_watch_is_not_counted(one: moving.Fixture) -> None:
    feed = Feed(one.databases.writer("cluster1"))
    start = place(one)
    post(one, one.carl, 101, 102)
    end = place(one)
    post(one, one.carl, 103)
    watch(one, feed, start, end)
    assert feed.take_writes()[0] == {one.carl: 1}


def test_the_first_rates_are_plain_means(one: moving.Fixture) -> None:
    learnt = WriteRates(one.databases, 1)
    learnt.learn({one.bob: 120, 999: 60}, 60.0)
    assert rates(one) == {one.bob: 2.0, one.carl: 0.0}
    learnt.learn({one.carl: 60}, 60.0)
    assert rates(one) == pytest.approx({one.bob: 1.0, one.carl: 0.5})


def test_a_worker_begins_with_what_was_recorded(one: moving.Fixture) -> None:
    store.record_write_rates(one.databases, {one.bob: 2.0, one.carl: 2.0})
    learnt = WriteRates(one.databases, 1)
    learnt.learn({one.bob: 240}, 120.0)
    found = rates(one)
    assert found[one.bob] == 2.0, "as steady as before"
    assert 1.7 > found[one.carl] > 1.5, "two quiet minutes say little"
    learnt.learn({}, 20 * MEMORY_S)
    assert rates(one) == {one.bob: 0.0, one.carl: 0.0}


def test_who_lives_elsewhere_or_has_just_arrived_is_not_judged(one: moving.Fixture) -> None:
    move = one.claimed()
    with one.databases.write("global") as connection:
        connection.execute(
            user_move.update()
            .where(user_move.c.move_id == move.move_id)
            .values(state="switched", switched_at=now_ms(), src=2, dst=1)
        )
    dora = one.users.create("dora", cluster=2).userid
    with one.databases.write("global") as connection:
        store.record_sizes(connection, 2, {dora: (1, 1)}, 1)
    WriteRates(one.databases, 1).learn({one.bob: 600, one.carl: 60, dora: 600}, 60.0)
    assert rates(one) == {one.bob: 0.0, one.carl: 1.0, dora: 0.0}


def test_small_changes_are_not_written(
    one: moving.Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt = WriteRates(one.databases, 1)
    learnt.learn({one.bob: 600, one.carl: 600}, 60.0)
    written: list[dict[int, float]] = []
    monkeypatch.setattr(
        "lj_services.usercluster.mover.rates.record_write_rates",
        lambda _databases, rates: written.append(rates),
    )
    learnt.learn({one.bob: 610, one.carl: 0}, 60.0)
    assert written == [{one.carl: 5.0}]


def test_from_a_move_to_the_plan(one: moving.Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with a move under way watches all users of the source, and the plan is told."""
    worker = moving.worker(one.site, one.users, write_rates_s=0.01)
    moving.stop_at(monkeypatch, "caught-up", lambda: post(one, one.carl, *range(100, 130)))
    began = time.monotonic()
    assert moving.move(worker, one.bob, 2).state == "switched"
    worker.feeds.record_rates()
    most_s = time.monotonic() - began
    users = load_snapshot(one.databases, SIZES).users
    found = dict(zip(users.userid.tolist(), users.write_rate.tolist(), strict=True))
    assert found[one.carl] >= 30 / most_s * 0.999
    assert found[one.bob] == 0.0, "his rows were copied, not written"


def test_a_site_may_want_no_rates(one: moving.Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = moving.worker(one.site, one.users, write_rates_s=0)
    moving.stop_at(monkeypatch, "caught-up", lambda: post(one, one.carl, 100))
    moving.move(worker, one.bob, 2)
    worker.feeds.record_rates()
    assert rates(one) == {one.bob: 0.0, one.carl: 0.0}


def test_workers_record_by_themselves(one: moving.Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = moving.worker(one.site, one.users, write_rates_s=0.01)
    moving.stop_at(monkeypatch, "caught-up", lambda: post(one, one.carl, 100))
    worker.moves.enqueue(one.bob, 2)
    stop = threading.Event()
    monkeypatch.setattr(worker_module, "SIGN_EVERY_S", 0.2)
    thread = threading.Thread(target=worker.loop, args=(stop,))
    thread.start()
    try:
        wait_for(lambda: rates(one)[one.carl] > 0, "a rate")
    finally:
        stop.set()
        thread.join(30)


def test_the_movers_own_rows_are_passed_over_while_nobody_listens(one: moving.Fixture) -> None:
    """A feed that lingers is not slowed down by a copy to its cluster, and does not count it."""
    feed = Feed(one.databases.writer("cluster1"), linger_s=60)
    start = place(one)
    watch(one, feed, start)
    seen: Counter[int] = Counter()

    def counted(userid: int) -> int:
        seen.update(feed.take_writes()[0])
        return seen[userid]

    giant = 2_000_000_000
    for turn, state in enumerate(("importing", "moved", "active")):
        with one.databases.write("cluster1") as connection:
            fence = {"state": state, "epoch": turn + 1, "readonly": False}
            query = f"REPLACE INTO user_home SET userid = {giant}, state = :state, epoch = :epoch"
            connection.execute(text(query), fence)
            rows = [
                {"userid": giant, "noteid": 10 * turn + number, "version": 0, "body": ""}
                for number in range(3)
            ]
            connection.execute(insert(note), rows)
        post(one, one.carl, turn)
        wait_for(lambda: counted(one.carl) == turn + 1, "the write that came after")  # noqa: B023
        assert counted(giant) == (3 if state == "active" else 0)
    feed.close()
