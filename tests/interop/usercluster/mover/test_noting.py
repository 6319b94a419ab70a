"""Triggers on SQLite note the keys of whatever changes of one user's rows."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from lj_services.usercluster.mover import fences, noting
from lj_services.usercluster.mover.discovery import Table
from lj_services.usercluster.mover.errors import ClaimLost, FeedLost, Unclassified
from lj_services.usercluster.mover.plan import look
from lj_services.usercluster.mover.rows import Keys
from lj_services.usercluster.mover.rows_sqlite import SqliteRows
from lj_services.usercluster.mover.work import Work
from tests.support import moving
from tests.support.databases import TestSite

pytestmark = pytest.mark.interop

THING = """
CREATE TABLE thing (
    userid INTEGER NOT NULL, word TEXT COLLATE NOCASE NOT NULL, raw BLOB NOT NULL,
    badge TEXT UNIQUE, place INTEGER, body TEXT, PRIMARY KEY (userid, word, raw),
    UNIQUE (userid, place)
)
"""


@pytest.fixture
def work(sqlite_site: TestSite) -> Work:
    """A move of bob from cluster 1 that has staked its claims, with triggers up."""
    one = moving.Fixture(sqlite_site)
    for role in ("cluster1", "cluster2"):
        with one.databases.write(role) as connection:
            connection.exec_driver_sql(THING)
    work = Work(one.databases, one.worker.moves, moving.FAST, one.claimed())
    fences.stake(one.databases, work.src, work.move)
    work.schema = look(one.databases, work.settings, one.bob, 1, 2).schema
    noting.begin(work)
    return work


def noted(work: Work, place: int = 0) -> noting.Noted:
    """Its notes, as a worker sees them who takes the move over."""
    place_of = noting.Place(0, noting.notes_of(work.move), place)
    found = noting.resume(work, place_of)
    assert found is not None
    return found


def run(work: Work, *statements: str) -> None:
    with work.databases.write(work.src) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("BOB", str(work.move.userid)))


FIRST = "INSERT INTO thing VALUES (BOB, 'a', x'00ff', 'gold', 1, 'one')"
KEY = ("a", b"\x00\xff")


@pytest.mark.parametrize(
    ("statement", "keys"),
    [
        ("UPDATE thing SET body = 'two'", {KEY}),
        ("UPDATE thing SET word = 'b'", {KEY, ("b", b"\x00\xff")}),
        ("UPDATE thing SET userid = 99", {KEY}),
        ("DELETE FROM thing", {KEY}),
        ("INSERT INTO thing VALUES (BOB, 'c', x'', NULL, NULL, NULL)", {("c", b"")}),
        ("INSERT INTO thing VALUES (98, 'c', x'', NULL, NULL, NULL)", set()),
        (
            "INSERT INTO thing VALUES (BOB, 'a', x'00ff', NULL, 1, 'upsert') "
            "ON CONFLICT DO UPDATE SET body = 'three'",
            {KEY},
        ),
        (
            "REPLACE INTO thing VALUES (BOB, 'd', x'01', NULL, 1, 'at the same place')",
            {KEY, ("d", b"\x01")},
        ),
        ("REPLACE INTO thing VALUES (98, 'd', x'01', 'gold', 1, 'stolen')", {KEY}),
        ("REPLACE INTO thing VALUES (BOB, 'A', x'00ff', NULL, 2, '')", {KEY, ("A", KEY[1])}),
    ],
)
def test_a_change_is_noted(work: Work, statement: str, keys: set[Any]) -> None:
    run(work, FIRST)
    notes = noted(work)
    assert notes.take()[0] == {"thing": {KEY}}
    assert notes.pending == 0
    run(work, statement)
    taken, place = notes.take()
    assert taken.get("thing", set()) == keys
    assert notes.pending == 0
    notes.give_back(taken)
    assert notes.take()[0] == taken
    # Whoever takes the move over at an earlier place sees the keys again.
    assert noted(work, 1).take()[0].get("thing", set()) == keys
    assert noted(work, place.pos).take()[0] == {}


def test_an_update_that_replaces_a_row(work: Work) -> None:
    run(work, FIRST, "INSERT INTO thing VALUES (BOB, 'b', x'', 'tin', 2, 'two')")
    notes = noted(work)
    notes.take()
    run(work, "UPDATE OR REPLACE thing SET badge = 'gold' WHERE word = 'b'")
    assert notes.take()[0] == {"thing": {KEY, ("b", b"")}}


def test_a_table_with_one_row_for_each_user(work: Work) -> None:
    run(work, "INSERT INTO tally VALUES (BOB, 1)", "UPDATE tally SET writes = 2")
    assert noted(work).take()[0] == {"tally": {()}}


def test_what_was_rolled_back_is_not_noted(work: Work) -> None:
    with moving.undone(work.databases, work.src) as connection:
        connection.exec_driver_sql(FIRST.replace("BOB", str(work.move.userid)))
    assert noted(work).take()[0] == {}


def test_triggers_that_are_gone_are_missed(work: Work) -> None:
    """Somebody rebuilds a table, and it comes out as it was, but without its triggers."""
    notes = noted(work)
    run(
        work,
        "CREATE TABLE rebuilt AS SELECT * FROM thing",
        "DROP TABLE thing",
        THING,
        "INSERT INTO thing SELECT * FROM rebuilt",
        "DROP TABLE rebuilt",
    )
    with pytest.raises(FeedLost, match="are gone from cluster1"):
        notes.take()
    with pytest.raises(FeedLost):
        assert notes.pending
    assert noting.resume(work, noting.Place(0, noting.notes_of(work.move), 0)) is None
    noting.begin(work)  # the next attempt
    run(work, FIRST)
    assert noted(work).take()[0] == {"thing": {KEY}}


def test_nothing_is_left(work: Work) -> None:
    assert moving.notes(work.databases) != []
    for _ in range(2):
        noting.forget(work)
        assert moving.notes(work.databases) == []


def test_who_lost_the_claim_puts_nothing_up(work: Work) -> None:
    with work.databases.write(work.src) as connection:
        connection.execute(text("UPDATE move_marker SET claim = claim + 1"))
    with pytest.raises(ClaimLost):
        noting.begin(work)


def test_a_key_that_may_be_null_is_refused(sqlite_site: TestSite) -> None:
    one = moving.Fixture(sqlite_site)
    with one.databases.write("cluster1") as connection:
        connection.exec_driver_sql(
            "CREATE TABLE x (userid INT, word TEXT, PRIMARY KEY(userid, word))"
        )
        with pytest.raises(
            Unclassified, match=r"column word .* may be NULL .* declare it NOT NULL"
        ):
            SqliteRows().schema(connection, "cluster 1")
        connection.exec_driver_sql("DROP TABLE x")
        connection.exec_driver_sql(
            "CREATE TABLE x (userid INT, word TEXT, PRIMARY KEY(userid, word)) WITHOUT ROWID"
        )
        assert SqliteRows().schema(connection, "cluster 1").table("x") is not None


def test_an_index_of_expressions_is_followed_by_passes(sqlite_site: TestSite) -> None:
    one = moving.Fixture(sqlite_site)
    for role in ("cluster1", "cluster2"):
        with one.databases.write(role) as connection:
            connection.exec_driver_sql("CREATE UNIQUE INDEX lower ON note (userid, lower(body))")
    plan = look(one.databases, moving.FAST, one.bob, 1, 2)
    assert plan.follows == ("passes of checksums: table note has a unique index of computed values")
    done = moving.run_until(one.worker, moving.move(one.worker, one.bob, 2).move_id, "done")
    assert "pass 1" in str(one.worker.moves.events(done.move_id))
    one.assert_on(2)


def test_only_what_changed_is_compared_under_the_freeze(
    sqlite_site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows the user has."""
    one = moving.Fixture(sqlite_site)
    compared: list[tuple[str, Any]] = []
    honest = SqliteRows.sum

    def watched(
        self: SqliteRows, connection: Any, table: Table, userid: int, span: Any, **how: Any
    ) -> Any:
        compared.append((table.name, span))
        return honest(self, connection, table, userid, span, **how)

    def write_and_watch() -> None:
        one.write()
        monkeypatch.setattr(SqliteRows, "sum", watched)

    moving.stop_at(monkeypatch, "verified", write_and_watch)
    moved = moving.move(one.worker, one.bob, 2)
    number = one.notes[-1][0]
    assert {(name, span.prefixes) for name, span in compared if isinstance(span, Keys)} == {
        ("note", ((number,),)),
        ("usercounter", (("note",),)),
    }
    assert all(isinstance(span, Keys) for _, span in compared)
    assert moved.state == "switched"
    assert moving.notes(one.databases) == []
    one.assert_on(2)
