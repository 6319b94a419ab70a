"""What must be refused: a clear message, and nothing changed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import text, update

from lj_services.cli import main
from lj_services.daemon import ConfigError, ExitCode
from lj_services.database import migrate
from lj_services.usercluster import NoCluster, UnknownUser, UserReadOnly, UserSettings
from lj_services.usercluster.balance import store as balance
from lj_services.usercluster.mover import (
    AlreadyMoving,
    ClusterFull,
    MoveRefused,
    MoverSettings,
    Moves,
    SameCluster,
    UnknownMove,
    Worker,
)
from lj_services.usercluster.mover.plan import look
from lj_services.usercluster.mover.rows_server import ServerRows
from lj_services.usercluster.mover.rows_sqlite import SqliteRows
from tests.support import moving
from tests.support.databases import TestSite
from tests.support.moving import note, stop_at, vanish

pytestmark = pytest.mark.faults


@pytest.fixture
def one(site: TestSite) -> moving.Fixture:
    return moving.Fixture(site)


def nothing_changed(one: moving.Fixture) -> None:
    assert moving.fences(one.databases, one.bob) == {1: "active"}
    assert not any(moving.content(one.databases, 2, one.bob).values())
    assert moving.markers(one.databases) == []
    one.assert_on(1)


def test_users_and_clusters_that_are_not_there(one: moving.Fixture) -> None:
    moves = one.worker.moves
    with pytest.raises(UnknownUser, match="no user with userid 999"):
        moves.enqueue(999, 2)
    with pytest.raises(NoCluster, match="no cluster 9; there are: 1, 2"):
        moves.enqueue(one.bob, 9)
    with pytest.raises(SameCluster, match="bob lives on cluster 1 already"):
        moves.enqueue(one.bob, 1)
    with pytest.raises(UnknownMove, match="no move 5"):
        moves.get(5)
    assert moves.list() == []
    nothing_changed(one)


def test_a_user_who_is_moving_already(one: moving.Fixture) -> None:
    first = one.worker.moves.enqueue(one.bob, 2)
    with pytest.raises(AlreadyMoving, match=f"by move {first.move_id}, queued"):
        one.worker.moves.enqueue(one.bob, 2)
    assert len(one.worker.moves.list()) == 1


def test_a_full_cluster(one: moving.Fixture) -> None:
    greedy = MoverSettings(min_free=1 << 60)
    with pytest.raises(ClusterFull, match=r"cluster 2 has \d+ MB free"):
        look(one.databases, greedy, one.bob, 1, 2)
    worker = moving.worker(one.site, one.users, min_free=1 << 60)
    failed = moving.run_until(worker, moving.move(worker, one.bob, 2).move_id, "failed")
    assert "must stay free" in str(failed.error)
    nothing_changed(one)


def test_schemas_that_differ(one: moving.Fixture) -> None:
    with one.databases.write("cluster1") as connection:
        connection.execute(text("ALTER TABLE note ADD COLUMN mood INTEGER"))
    failed = moving.run_until(one.worker, moving.move(one.worker, one.bob, 2).move_id, "failed")
    assert "only cluster 1: note.mood" in str(failed.error)
    nothing_changed(one)


def test_a_table_without_userid(one: moving.Fixture) -> None:
    with one.databases.write("cluster1") as connection:
        connection.execute(text("CREATE TABLE stray (id INTEGER NOT NULL PRIMARY KEY)"))
    failed = moving.run_until(one.worker, moving.move(one.worker, one.bob, 2).move_id, "failed")
    assert "table stray has no column userid" in str(failed.error)
    nothing_changed(one)


def test_a_chunk_that_differs_before_the_freeze(
    mariadb_site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody wrote on the destination: no write on the source explains it."""
    one = moving.Fixture(mariadb_site)

    def meddle() -> None:
        with one.databases.write("cluster2") as connection:
            connection.execute(
                update(note)
                .where(note.c.userid == one.bob, note.c.noteid == 7)
                .values(body="meddled")
            )

    stop_at(monkeypatch, "copied", meddle)
    failed = moving.run_until(one.worker, moving.move(one.worker, one.bob, 2).move_id, "failed")
    assert "table note, chunk from the start to the end: 1 rows differ" in str(failed.error)
    assert "keys (7,)" in str(failed.error)
    nothing_changed(one)


def test_a_checksum_that_is_wrong_at_the_cut_over(
    one: moving.Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrives is not what was sent: the user is let go, the source stays the truth."""
    kind = ServerRows if one.site.engine == "mariadb" else SqliteRows
    honest = kind.put

    def lossy(self: Any, connection: Any, table: Any, rows: Any) -> None:
        honest(self, connection, table, rows[:-1])

    def break_it() -> None:
        one.write()
        monkeypatch.setattr(kind, "put", lossy)

    stop_at(monkeypatch, "verified", break_it)
    failed = moving.run_until(one.worker, moving.move(one.worker, one.bob, 2).move_id, "failed")
    assert re.search(r"table \w+, (key|\d+ keys:) \(.+\): checksums differ", str(failed.error))
    nothing_changed(one)


def test_a_move_that_is_cancelled_half_way(
    one: moving.Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancel() -> None:
        (move,) = one.worker.moves.list(userid=one.bob)
        one.worker.moves.end(move.move_id, "cancelled", "by an operator")

    stop_at(monkeypatch, "copied", cancel)
    ended = moving.move(one.worker, one.bob, 2)
    assert ended.state == "cancelled"
    nothing_changed(one)
    with pytest.raises(MoveRefused, match="is cancelled"):
        one.worker.moves.end(ended.move_id, "cancelled", "again")


def test_a_worker_that_slept_until_its_move_was_over(one: moving.Fixture) -> None:
    slept = one.claimed(lease_s=0.0)
    one.worker.moves.end(slept.move_id, "cancelled", "by an operator")
    moving.run_until(moving.worker(one.site, one.users), slept.move_id, "cancelled")
    assert one.worker.run(slept).state == "cancelled"
    nothing_changed(one)


def test_cancelling_at_the_last_moment(
    one: moving.Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between freeze and commit point: whoever asked in time is obeyed."""

    def cancel() -> None:
        (move,) = one.worker.moves.list(userid=one.bob)
        assert move.state == "frozen"
        one.worker.moves.end(move.move_id, "cancelled", "by an operator")

    stop_at(monkeypatch, "activated", cancel)
    assert moving.move(one.worker, one.bob, 2).state == "cancelled"
    nothing_changed(one)


def test_too_late_to_cancel(one: moving.Fixture) -> None:
    worker = moving.worker(one.site, one.users, grace_s=60.0)
    moved = moving.move(worker, one.bob, 2)
    with pytest.raises(MoveRefused, match="lj users move --back"):
        worker.moves.end(moved.move_id, "cancelled", "too late")
    one.assert_on(2)


def test_no_freeze_is_quick_enough(one: moving.Fixture) -> None:
    """The limit is kept: the user is let go each time, and the move fails with the reason."""
    worker = moving.worker(one.site, one.users, freeze_limit_ms=0, freeze_tries=3)
    failed = moving.run_until(worker, moving.move(worker, one.bob, 2).move_id, "failed")
    assert "freeze_limit_ms" in str(failed.error)
    nothing_changed(one)


def test_read_only_users_stay_read_only(one: moving.Fixture) -> None:
    one.users.set_readonly(one.bob, True)
    moved = moving.move(one.worker, one.bob, 2)
    assert moved.state == "switched", moved.error
    with pytest.raises(UserReadOnly):
        one.write()
    one.users.set_readonly(one.bob, False)
    one.assert_on(2)


def test_a_destination_that_is_away(one: moving.Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A passing fault is tried again; after the last attempt the move is undone."""
    attempts: list[int] = []
    from lj_services.database import DatabaseUnreachable
    from lj_services.usercluster.mover import copy

    def away(work: Any) -> int:
        attempts.append(work.move.attempts)
        raise DatabaseUnreachable("cluster2 can't be reached: test")

    honest = copy.wipe
    monkeypatch.setattr(copy, "wipe", away)
    asked = one.worker.moves.enqueue(one.bob, 2)
    worker = moving.worker(one.site, one.users, attempts=3)
    while len(attempts) < 3:
        found = worker.next()
        if found is not None:
            worker.run(found)
    monkeypatch.setattr(copy, "wipe", honest)
    failed = moving.run_until(worker, asked.move_id, "failed")
    assert "can't be reached: test" in str(failed.error)
    assert attempts == [1, 2, 3]
    nothing_changed(one)


def test_grace_is_not_shorter_than_caches_remember(one: moving.Fixture) -> None:
    with pytest.raises(ConfigError, match="route_ttl_s"):
        Worker(one.databases, one.users, MoverSettings(grace_s=5), UserSettings(route_ttl_s=6))


def test_global_restored_from_an_old_copy(
    one: moving.Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Move and user contradict each other: nobody guesses."""
    stop_at(monkeypatch, "copied", vanish)
    left = moving.move(one.worker, one.bob, 2)
    with one.databases.write("global") as connection:
        connection.execute(text(f"UPDATE user SET epoch = 7 WHERE userid = {one.bob}"))
    before = moving.fences(one.databases, one.bob)
    while (found := one.worker.next()) is None:
        pass
    stuck = one.worker.run(found)
    assert (stuck.move_id, stuck.state) == (left.move_id, "copying")
    assert "global has the user on cluster 1 with epoch 7" in str(stuck.error)
    assert moving.fences(one.databases, one.bob) == before


# --- The operator's command ---


@pytest.fixture
def lj(sqlite_site: TestSite, tmp_path: Path) -> Any:
    one = moving.Fixture(sqlite_site)
    migrate(one.databases, "global", [balance.COMPONENT])
    file = tmp_path / "site.toml"
    roles = "".join(
        f'[database.roles.{name}]\nwriter = "{role.writer}"\n'
        for name, role in sqlite_site.settings.roles.items()
    )
    file.write_text(roles + "[users]\nmin_free = 0\n[mover]\nmin_free = 0\n")

    def run(*words: str) -> Any:
        return CliRunner().invoke(main, ["--site", str(file), *words])

    run.one, run.file = one, file  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nobody", "2"), ExitCode.UNKNOWN, "no user 'nobody'"),
        (("bob", "9"), ExitCode.UNKNOWN, "no cluster 9"),
        (("bob", "1"), ExitCode.REFUSED, "lives on cluster 1 already"),
        (("bob",), ExitCode.USAGE, "say to which CLUSTER"),
        (("bob", "--back"), ExitCode.REFUSED, "no earlier home"),
        (("bob", "two"), ExitCode.USAGE, "not a valid integer"),
    ],
)
def test_commands_that_are_refused(lj: Any, words: Any, code: ExitCode, message: str) -> None:
    told = lj("users", "move", *words)
    assert told.exit_code == code
    assert message in told.output
    assert Moves(lj.one.databases).list() == []
    nothing_changed(lj.one)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("ALTER TABLE note ADD COLUMN mood INTEGER", "only cluster 1: note.mood"),
        ("CREATE TABLE stray (id INTEGER NOT NULL PRIMARY KEY)", "stray has no column userid"),
    ],
)
def test_the_command_looks_at_both_schemas_first(lj: Any, statement: str, message: str) -> None:
    with lj.one.databases.write("cluster1") as connection:
        connection.execute(text(statement))
    for words in (("--dry-run",), ()):
        told = lj("users", "move", "bob", "2", *words)
        assert told.exit_code == ExitCode.REFUSED
        assert message in told.output
    assert Moves(lj.one.databases).list() == []
    nothing_changed(lj.one)


def test_the_command_asks_for_room_first(lj: Any) -> None:
    lj.file.write_text(
        lj.file.read_text().replace("[mover]\nmin_free = 0", f"[mover]\nmin_free = {1 << 60}")
    )
    told = lj("users", "move", "bob", "2")
    assert told.exit_code == ExitCode.REFUSED
    assert "MB free" in told.output
    assert Moves(lj.one.databases).list() == []
    nothing_changed(lj.one)


def test_the_command_finds_another_move(lj: Any) -> None:
    first = lj.one.worker.moves.enqueue(lj.one.bob, 2)
    told = lj("users", "move", "bob", "2")
    assert told.exit_code == ExitCode.REFUSED
    assert f"by move {first.move_id}, queued" in told.output
    assert [move.move_id for move in Moves(lj.one.databases).list()] == [first.move_id]
    nothing_changed(lj.one)


def test_the_operators_round(lj: Any) -> None:
    """Dry run, move, look, move back, purge."""
    dry = json.loads(lj("users", "move", "bob", "2", "--dry-run", "--json").output)
    assert (dry["from"], dry["to"], dry["rows"]) == (1, 2, 41)
    nothing_changed(lj.one)
    moved = lj("users", "move", "bob", "2", "--json")
    assert moved.exit_code == 0, moved.output
    assert json.loads(moved.output)["state"] == "switched"
    lj.one.assert_on(2)
    back = lj("users", "move", "bob", "--back", "--json")
    assert back.exit_code == 0, back.output
    lj.one.assert_on(1)
    listed = json.loads(lj("moves", "list", "--all", "--json").output)
    assert [move["state"] for move in listed] == ["switched", "rolled_back"]
    shown = json.loads(lj("moves", "show", str(listed[0]["move"]), "--json").output)
    assert shown["events"][-1]["message"].startswith("held ")
    assert lj("moves", "cancel", "1").exit_code == ExitCode.REFUSED
    assert lj("moves", "show", "99").exit_code == ExitCode.UNKNOWN
    queued = lj.one.worker.moves.enqueue(lj.one.bob, 2)
    cancelled = json.loads(lj("moves", "cancel", str(queued.move_id), "--json").output)
    assert cancelled["state"] == "cancelled"
    again = json.loads(lj("moves", "retry", str(queued.move_id), "--json").output)
    assert again["state"] == "queued"
    assert lj("mover", "worker", "--until-idle").exit_code == 0
    lj.one.assert_on(2)


def test_a_way_back_that_is_cancelled(one: moving.Fixture) -> None:
    """The user stays, and what was kept for the way back is purged after all."""
    there = moving.move(one.worker, one.bob, 2)
    back = one.worker.moves.enqueue(one.bob, 1, back_of=there.move_id)
    one.worker.moves.end(back.move_id, "cancelled", "somebody thought better of it")
    moving.run_until(one.worker, back.move_id, "cancelled")
    moving.run_until(one.worker, there.move_id, "done")
    assert not any(moving.content(one.databases, 1, one.bob).values())
    one.assert_on(2)
