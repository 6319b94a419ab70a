"""The change feed on a real MariaDB's binary log."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import insert, select, text, update

from lj_services.database import Databases, DatabaseUnreachable
from lj_services.usercluster.mover import fences
from lj_services.usercluster.mover.binlog import Place, here, still_there, why_not
from lj_services.usercluster.mover.feed import Feed
from lj_services.usercluster.mover.rows_server import ServerRows
from lj_services.usercluster.mover.subscription import Subscription
from tests.support import moving
from tests.support.databases import TestSite, settings_of, site_on_mariadb
from tests.support.ledger import assert_kept, writing
from tests.support.mariadb import ServerFactory
from tests.support.moving import note, tally
from tests.support.process import wait_for

pytestmark = pytest.mark.interop


@pytest.fixture
def one(mariadb_site: TestSite) -> moving.Fixture:
    return moving.Fixture(mariadb_site)


def subscribe(
    one: moving.Fixture, feed: Feed, userid: int, start: Place | None = None
) -> Subscription:
    with one.databases.read("cluster1") as connection:
        schema = ServerRows().schema(connection, "cluster 1")
        place = start or here(connection)
    claim = (one.move.move_id, one.move.claim) if one.move else (0, 0)
    return feed.subscribe(userid, schema, place, claim)


def taken(subscription: Subscription) -> dict[str, set[tuple[object, ...]]]:
    return subscription.take()[0]


def answers(one: moving.Fixture) -> bool:
    """Whether every role's pools are free of connections to a server that died."""
    try:
        for role in one.databases.roles():
            for connect in (one.databases.read, one.databases.write):
                with connect(role) as connection:
                    connection.execute(text("SELECT 1"))
    except DatabaseUnreachable:
        return False
    return True


def mark(one: moving.Fixture) -> int:
    with one.databases.write("cluster1") as connection:
        return fences.raise_marker(connection, one.move)


def test_keys_of_the_user_and_of_nobody_else(one: moving.Fixture) -> None:
    one.move = one.claimed()
    fences.stake(one.databases, "cluster1", one.move)
    subscription = subscribe(one, Feed(one.databases.writer("cluster1")), one.bob)
    one.write()
    with one.users.writing(one.bob) as connection:
        mine = note.c.userid == one.bob
        connection.execute(update(note).where(mine, note.c.noteid == 3).values(version=1))
        connection.execute(update(note).where(mine, note.c.noteid == 4).values(noteid=400))
        connection.execute(text(f"DELETE FROM tag WHERE userid = {one.bob} AND noteid = 5"))
    with one.users.writing(one.carl) as connection:
        connection.execute(insert(note).values(userid=one.carl, noteid=9, version=0, body=""))
    assert subscription.wait(mark(one), 10)
    assert taken(subscription) == {
        "note": {(21,), (3,), (4,), (400,)},
        "usercounter": {("note",)},
        "tag": {("w5", 5)},
    }
    subscription.close()


def test_a_rolled_back_write_is_not_shown(one: moving.Fixture) -> None:
    one.move = one.claimed()
    fences.stake(one.databases, "cluster1", one.move)
    subscription = subscribe(one, Feed(one.databases.writer("cluster1")), one.bob)
    with moving.undone(one.databases, "cluster1") as connection:
        connection.execute(update(note).where(note.c.userid == one.bob).values(version=9))
    assert subscription.wait(mark(one), 10)
    assert taken(subscription) == {}
    subscription.close()


def test_rotated_logs_and_big_unsigned_numbers(one: moving.Fixture) -> None:
    with one.databases.write("cluster1") as connection:
        connection.execute(
            text(
                "CREATE TABLE big (userid INT UNSIGNED, a BIGINT UNSIGNED, b TINYINT UNSIGNED, "
                "c BINARY(4), PRIMARY KEY (userid, a, b, c)) ENGINE=InnoDB"
            )
        )
    giant = 4_000_000_000
    subscription = subscribe(one, Feed(one.databases.writer("cluster1")), giant)
    for number in (1, 2):
        with one.databases.write("cluster1") as connection:
            connection.execute(
                text(f"INSERT INTO big VALUES ({giant}, {2**64 - number}, 200, x'6100ff00')")
            )
        with one.databases.write("cluster1") as connection:
            connection.execute(text("FLUSH BINARY LOGS"))
    wait_for(lambda: subscription.pending == 2, "both keys")
    # The binary column is not trusted: the key ends before it.
    assert taken(subscription) == {"big": {(2**64 - 1, 200), (2**64 - 2, 200)}}
    subscription.close()


def test_one_feed_for_all_moves_and_an_earlier_place(one: moving.Fixture) -> None:
    """A move that is taken up again rewinds the feed; the others see some keys twice."""
    one.move = one.claimed()
    fences.stake(one.databases, "cluster1", one.move)
    with one.databases.read("cluster1") as connection:
        before = here(connection)
    one.write()
    feed = Feed(one.databases.writer("cluster1"))
    carl = subscribe(one, feed, one.carl)
    bob = subscribe(one, feed, one.bob, before)
    assert bob.wait(mark(one), 10)
    dirty, place = bob.take()
    assert dirty == {"note": {(21,)}, "usercounter": {("note",)}}
    assert place.order > before.order
    assert carl.pending == 0
    for subscription in (carl, bob):
        subscription.close()


def test_the_server_restarts_under_the_feed(mariadb_server: ServerFactory) -> None:
    server = mariadb_server(3)
    with site_on_mariadb(server) as site:
        one = moving.Fixture(site)
        one.move = one.claimed()
        fences.stake(one.databases, "cluster1", one.move)
        subscription = subscribe(one, Feed(one.databases.writer("cluster1")), one.bob)
        one.write()
        server.kill()
        server.start()
        wait_for(lambda: answers(one), "connections to be made anew")
        one.write()
        assert subscription.wait(mark(one), 15)
        assert taken(subscription)["note"] == {(21,), (22,)}
        subscription.close()


def test_table_numbers_of_an_earlier_life(mariadb_server: ServerFactory) -> None:
    """A server that crashed numbers its tables anew: another schema's get the old numbers."""
    server = mariadb_server(5)
    with site_on_mariadb(server) as site:
        one = moving.Fixture(site)
        one.move = one.claimed()
        fences.stake(one.databases, "cluster1", one.move)
        others = [f"lj_cluster2.other{number}" for number in range(80)]
        server.query(
            *(f"CREATE TABLE {name} (userid INT PRIMARY KEY, n BIGINT)" for name in others)
        )
        server.kill()
        server.start()
        wait_for(lambda: answers(one), "connections to be made anew")
        with one.databases.read("cluster1") as connection:
            before = here(connection)
        one.write()
        server.kill()
        server.start()
        server.query(*(f"INSERT INTO {name} VALUES ({one.bob}, 1)" for name in others))
        wait_for(lambda: answers(one), "connections to be made anew")
        # A move that is taken up again reads through both lives.
        feed = Feed(one.databases.writer("cluster1"))
        subscription = subscribe(one, feed, one.bob, before)
        assert subscription.wait(mark(one), 15)
        assert taken(subscription) == {"note": {(21,)}, "usercounter": {("note",)}}
        subscription.close()


def test_markers_of_an_earlier_claim_do_not_count(one: moving.Fixture) -> None:
    one.move = one.claimed(lease_s=0.0)
    fences.stake(one.databases, "cluster1", one.move)
    with one.databases.read("cluster1") as connection:
        before = here(connection)
    mark(one)
    mark(one)
    one.move = one.worker.moves.claim(one.move, "next", 60.0)
    fences.stake(one.databases, "cluster1", one.move)
    subscription = subscribe(one, Feed(one.databases.writer("cluster1")), one.bob, before)
    assert not subscription.wait(4, 0.5)
    mark(one)
    assert subscription.wait(mark(one), 10)
    subscription.close()


def test_a_place_that_is_gone(one: moving.Fixture) -> None:
    with one.databases.read("cluster1") as connection:
        now = here(connection)
        assert still_there(connection, now)
        assert not still_there(connection, Place(now.server_id + 1, now.file, now.pos))
        assert not still_there(connection, Place(now.server_id, now.file, now.pos + 10**9))
        assert not still_there(connection, Place(now.server_id, "binlog.999999", 4))


def test_a_table_altered_under_the_feed(one: moving.Fixture) -> None:
    subscription = subscribe(one, Feed(one.databases.writer("cluster1")), one.bob)
    with one.databases.write("cluster1") as connection:
        connection.execute(text("ALTER TABLE note ADD COLUMN mood VARCHAR(10)"))
        connection.execute(text(f"UPDATE note SET mood = 'x' WHERE userid = {one.bob}"))

    def failed() -> bool:
        try:
            subscription.take()
        except Exception as error:
            return "altered" in str(error)
        return False

    wait_for(failed, "the feed to say so")
    subscription.close()


def test_why_there_is_no_feed(one: moving.Fixture, mariadb_site: TestSite) -> None:
    url = str(mariadb_site.settings.roles["cluster1"].writer).replace("root@", "plain@")
    with one.databases.write("cluster1") as connection:
        assert why_not(connection) is None
        connection.execute(text("CREATE OR REPLACE USER plain"))
        connection.execute(text("GRANT ALL ON lj_cluster1.* TO plain"))
    plain = Databases(settings_of({"cluster1": url}))
    with plain.read("cluster1") as connection:
        assert "binary log" in str(why_not(connection))
    plain.close()
    with one.databases.write("cluster1") as connection:
        connection.execute(text("DROP USER plain"))


def test_an_event_comes_before_its_row_can_be_seen(mariadb_server: ServerFactory) -> None:
    """Semi-sync's AFTER_SYNC: the feed is ahead of readers by as long as no replica answers.

    A plain read of the dirty row finds the old version; the move, which locks what it
    reads, arrives with the new one.
    """
    server = mariadb_server(
        4, ("--rpl-semi-sync-master-wait-point=AFTER_SYNC", "--rpl-semi-sync-master-timeout=1500")
    )
    with site_on_mariadb(server) as site:
        one = moving.Fixture(site)
        one.write()
        with one.users.writing(one.bob) as connection:
            connection.execute(insert(tally).values(userid=one.bob, writes=0))
        subscription = subscribe(one, Feed(one.databases.writer("cluster1")), one.bob)
        server.query("SET GLOBAL rpl_semi_sync_master_enabled = 1")

        def write() -> None:
            with one.users.writing(one.bob) as connection:
                connection.execute(update(tally).where(tally.c.userid == one.bob).values(writes=1))

        writer = threading.Thread(target=write)
        began = time.monotonic()
        writer.start()
        wait_for(lambda: subscription.pending > 0, "the event")
        seen_after = time.monotonic() - began
        query = select(tally.c.writes).where(tally.c.userid == one.bob)
        with one.databases.read("cluster1") as connection:
            assert connection.scalar(query) == 0, "the event was not ahead of its row"
        with one.databases.write("cluster1") as connection:
            locking = query.with_for_update(read=True)
            assert connection.scalar(locking) == 1
        assert time.monotonic() - began > seen_after + 0.5, "nothing was waited for"
        writer.join()
        subscription.close()

        server.query(
            "SET GLOBAL rpl_semi_sync_master_enabled = 0",
            "SET GLOBAL rpl_semi_sync_master_enabled = 1",
        )
        with writing(one.users, one.carl) as busy:
            moved = moving.move(one.worker, one.carl, 2)
            assert moved.state == "switched", moved.error
            ledger = busy.stop()
        assert_kept(one.databases, 2, one.carl, ledger)
