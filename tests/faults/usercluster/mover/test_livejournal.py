"""The sixteen ways in which LiveJournal's own mover failed, each once more.

Taken from the comments and commit messages of its code; the number is the one of the list in
docs/moving-users.md.
"""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import delete, insert, select, text, update

from lj_services.database import Databases
from lj_services.usercluster.mover import ClaimLost, Moves
from lj_services.usercluster.mover import fences as mover_fences
from lj_services.usercluster.mover.tables import user_move
from lj_services.usercluster.numberspaces import allocate
from lj_services.usercluster.tables import usercounter
from tests.support import moving
from tests.support.databases import TestSite
from tests.support.ledger import assert_kept, writing
from tests.support.moving import note, stop_at, vanish
from tests.support.process import wait_for

pytestmark = pytest.mark.faults


@pytest.fixture
def one(site: TestSite) -> moving.Fixture:
    """A site with the user bob on cluster 1, who has twenty notes."""
    return moving.Fixture(site)


def test_f1_user_stuck_read_only_after_the_mover_died(
    one: moving.Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, "froze", vanish)
    left = moving.move(one.worker, one.bob, 2)
    assert left.state == "frozen"
    assert moving.fences(one.databases, one.bob)[1] == "frozen"
    stop_at(monkeypatch, "staked", vanish)  # the successor thaws, and gets no further
    successor = moving.worker(one.site, one.users)
    wait_for(lambda: bool(successor.moves.due()), "the freeze's lease to run out")
    found = successor.next()
    assert found is not None
    successor.run(found)
    one.write()
    assert moving.home(one.databases, one.bob) == 1
    moving.run_until(moving.worker(one.site, one.users), left.move_id, "switched")


def test_f2_an_error_between_freeze_and_switch(
    one: moving.Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        raise RuntimeError("a bug")

    stop_at(monkeypatch, "froze", die)
    left = moving.move(one.worker, one.bob, 2)
    assert left.state == "catching_up"
    assert moving.fences(one.databases, one.bob) == {1: "active", 2: "importing"}
    one.write()
    moving.run_until(one.worker, left.move_id, "done")
    one.assert_on(2)


def test_f3_a_write_that_began_before_the_move(one: moving.Fixture) -> None:
    """Its transaction is open when the freeze comes: it is waited for, or the user let go."""
    begun, end = threading.Event(), threading.Event()

    def slow_request() -> None:
        with one.users.writing(one.bob) as connection:
            noteid = allocate(connection, one.bob, "note")
            connection.execute(
                insert(note).values(userid=one.bob, noteid=noteid, version=0, body="slow")
            )
            begun.set()
            end.wait(10)
        one.notes.append((noteid, "slow"))

    request = threading.Thread(target=slow_request)
    request.start()
    begun.wait(10)
    timer = threading.Timer(0.5, end.set)
    timer.start()
    asked = one.worker.moves.enqueue(one.bob, 2)
    moving.run_until(one.worker, asked.move_id, "done")
    request.join()
    one.assert_on(2)


def test_f4_the_job_servers_state_is_lost(one: moving.Fixture) -> None:
    asked = one.worker.moves.enqueue(one.bob, 2)
    afresh = Databases(one.site.settings)
    try:
        assert [move.move_id for move in Moves(afresh).due()] == [asked.move_id]
    finally:
        afresh.close()
    moving.run_until(moving.worker(one.site), asked.move_id, "done")
    one.assert_on(2)


def test_f5_a_worker_that_drops_out_silently(one: moving.Fixture) -> None:
    asked = one.worker.moves.enqueue(one.bob, 2)
    gone = one.worker.moves.claim(asked, "gone", 600.0)
    assert one.worker.next() is None
    one.worker.moves.heartbeat(gone, 0.0)  # the lease is over, as if that time had passed
    found = moving.run_until(one.worker, asked.move_id, "done")
    assert found.claim >= 2
    one.assert_on(2)


def test_f6_a_table_that_the_mover_was_never_told_of(one: moving.Fixture) -> None:
    for role in ("cluster1", "cluster2"):
        with one.databases.write(role) as connection:
            connection.execute(
                text(
                    "CREATE TABLE memory (userid INTEGER NOT NULL, memoryid INTEGER NOT NULL, "
                    "what VARCHAR(20), PRIMARY KEY (userid, memoryid))"
                )
            )
    with one.users.writing(one.bob) as connection:
        connection.execute(text(f"INSERT INTO memory VALUES ({one.bob}, 7, 'of you')"))
    moving.run_until(one.worker, moving.move(one.worker, one.bob, 2).move_id, "done")
    one.assert_on(2)
    for role, expected in (("cluster1", []), ("cluster2", [(one.bob, 7, "of you")])):
        with one.databases.read(role) as connection:
            assert [tuple(row) for row in connection.execute(text("SELECT * FROM memory"))] == (
                expected
            )


def test_f7_clearing_a_flag_twice_sets_it(one: moving.Fixture) -> None:
    move = one.claimed()
    mover_fences.stake(one.databases, "cluster1", move)
    with one.databases.write("cluster1") as connection:
        mover_fences.freeze(connection, move, 100)
    for expected in (True, False):
        with one.databases.write("cluster1") as connection:
            assert mover_fences.thaw(connection, move) is expected
        assert moving.fences(one.databases, one.bob) == {1: "active"}


def test_f8_one_mover_undoes_what_another_one_holds(one: moving.Fixture) -> None:
    """A worker wakes up after its lease, in the midst of the next one's freeze."""
    asleep = one.claimed(lease_s=0.05)
    mover_fences.stake(one.databases, "cluster1", asleep)
    wait_for(lambda: bool(one.worker.moves.due()), "the lease to run out")
    awake = one.worker.moves.claim(asleep, "awake", 5.0)
    mover_fences.stake(one.databases, "cluster1", awake)
    with one.databases.write("cluster1") as connection:
        mover_fences.freeze(connection, awake, 100)
    for undo in (mover_fences.thaw, mover_fences.raise_marker, mover_fences.bury):
        with pytest.raises(ClaimLost), one.databases.write("cluster1") as connection:
            undo(connection, asleep)
    with pytest.raises(ClaimLost):
        mover_fences.stake(one.databases, "cluster1", asleep)
    with pytest.raises(ClaimLost):
        one.worker.moves.advance(asleep, "preparing", "still here")
    assert moving.fences(one.databases, one.bob) == {1: "frozen"}


def test_f9_the_cursor_loses_its_place(
    one: moving.Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows around the copy's cursor come and go while it stands there."""

    def shuffle() -> None:
        with one.users.writing(one.bob) as connection:
            mine = note.c.userid == one.bob
            connection.execute(delete(note).where(mine, note.c.noteid.in_((1, 5, 20))))
            connection.execute(update(note).where(mine, note.c.noteid == 6).values(body="new"))
            connection.execute(
                insert(note).values(userid=one.bob, noteid=5, version=1, body="again")
            )

    stop_at(monkeypatch, "chunk", shuffle)
    moving.run_until(one.worker, moving.move(one.worker, one.bob, 2).move_id, "done")
    found = {row[1]: row[3] for row in moving.content(one.databases, 2, one.bob)["note"]}
    assert (found[5], found[6]) == ("again", "new")
    assert not {1, 20} & found.keys()


def test_f10_connections_break_during_a_long_move(
    mariadb_site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = moving.Fixture(mariadb_site)

    def cut() -> None:
        with one.databases.read("global") as connection:
            ids = connection.scalars(
                text("SELECT id FROM information_schema.processlist WHERE user = 'root'")
            ).all()
            me = connection.scalar(text("SELECT CONNECTION_ID()"))
            for number in ids:
                if number != me:
                    connection.execute(text(f"KILL {number}"))

    stop_at(monkeypatch, "copied", cut)
    asked = one.worker.moves.enqueue(one.bob, 2)
    moving.run_until(one.worker, asked.move_id, "done")
    one.assert_on(2)


def test_f11_numbers_are_not_given_out_twice_after_a_failover(one: moving.Fixture) -> None:
    """The counter came back older than the rows: it arrives above all of them."""
    with one.databases.write("cluster1") as connection:
        connection.execute(update(usercounter).where(usercounter.c.userid == one.bob).values(max=3))
    moving.run_until(one.worker, moving.move(one.worker, one.bob, 2).move_id, "done")
    with one.databases.read("cluster2") as connection:
        top = connection.scalar(select(usercounter.c.max).where(usercounter.c.userid == one.bob))
    assert top == 20
    one.write()
    assert one.notes[-1][0] == 21


def test_f11_the_source_is_another_server_when_the_move_is_taken_up_again(
    mariadb_site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place in its binary log means nothing then: the copy starts from the beginning."""
    one = moving.Fixture(mariadb_site)
    stop_at(monkeypatch, "copied", vanish)
    left = moving.move(one.worker, one.bob, 2)
    place = [left.progress["place"][0] + 1, *left.progress["place"][1:]]
    with one.databases.write("global") as connection:
        changed = {**left.progress, "place": place}
        connection.execute(update(user_move).values(progress=moving.as_json(changed)))
    one.write()
    moving.run_until(one.worker, left.move_id, "done")
    states = [event.state for event in one.worker.moves.events(left.move_id)]
    assert states.count("preparing") == 2
    one.assert_on(2)


def test_f12_deleting_holds_up_everybody(
    one: moving.Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The purge goes in small batches, and goes on where a dead worker stopped."""
    worker = moving.worker(one.site, one.users, purge_rows=3)
    stop_at(monkeypatch, "purge-batch", vanish)
    asked = worker.moves.enqueue(one.bob, 2)
    moving.run_until(worker, asked.move_id, "purging")
    assert len(moving.content(one.databases, 1, one.bob)["note"]) == 17
    moving.run_until(worker, asked.move_id, "done")
    assert not any(moving.content(one.databases, 1, one.bob).values())
    one.assert_on(2)


def test_f13_verification_that_cries_wolf(one: moving.Fixture) -> None:
    """Verified under a stream of edits to few rows: no false alarm."""
    with writing(one.users, one.carl) as writer:
        moved = moving.move(one.worker, one.carl, 2)
        assert moved.state == "switched", moved.error
        ledger = writer.stop()
    assert_kept(one.databases, 2, one.carl, ledger)


def test_f14_rows_on_the_destination_from_an_earlier_life(one: moving.Fixture) -> None:
    """There, back within the grace time, changed meanwhile, and there again."""
    worker = moving.worker(one.site, one.users, grace_s=60.0)
    there = moving.move(worker, one.bob, 2)
    one.write()
    with one.users.writing(one.bob) as connection:
        connection.execute(delete(note).where(note.c.userid == one.bob, note.c.noteid == 1))
    one.notes = [(number, body) for number, body in one.notes if number != 1]
    back = moving.move(worker, one.bob, 1, back_of=there.move_id)
    assert back.state == "switched", back.error
    assert worker.moves.get(there.move_id).state == "rolled_back"
    one.assert_on(1)
    one.write()
    again = moving.move(worker, one.bob, 2)
    assert again.state == "switched", again.error
    one.assert_on(2)


def test_f15_emptying_a_cluster_one_user_after_the_other(one: moving.Fixture) -> None:
    """Several workers at once: each user moved once, nobody forgotten."""
    crowd = [one.users.create(f"user{number}", cluster=1).userid for number in range(8)]
    asked = [one.worker.moves.enqueue(userid, 2) for userid in crowd]
    workers = [moving.worker(one.site, one.users) for _ in range(2)]
    threads = [
        threading.Thread(target=worker.loop, args=(threading.Event(),), kwargs=options)
        for worker in workers
        for options in ({"jobs": 2, "until_idle": True},)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for move in asked:
        moving.run_until(one.worker, move.move_id, "switched", "purging", "done")
    assert {moving.home(one.databases, userid) for userid in crowd} == {2}


def test_f16_what_belongs_to_others_stays(one: moving.Fixture) -> None:
    """Users with the same numbers on both clusters are not touched by a move past them."""
    dora = one.users.create("dora", cluster=2).userid
    moving.fill(one.databases, 2, dora, 20)
    moving.fill(one.databases, 1, one.carl, 20)
    before = [moving.content(one.databases, c, u) for c, u in ((2, dora), (1, one.carl))]
    moving.run_until(one.worker, moving.move(one.worker, one.bob, 2).move_id, "done")
    assert [moving.content(one.databases, c, u) for c, u in ((2, dora), (1, one.carl))] == before
    one.assert_on(2)
