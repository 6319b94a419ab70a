"""Users brought to a newer ``schema_ver``, on both engines."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, select, text
from sqlalchemy.engine import Engine

from lj_services.database import cluster_role
from lj_services.usercluster import (
    Downgrade,
    HomeMissing,
    UnknownVersion,
    UserBusy,
    versions,
)
from lj_services.usercluster.tables import user, user_home
from tests.support import moving
from tests.support.databases import TestSite
from tests.support.dict_cache import DictCache
from tests.support.lone_upgrader import KILLED
from tests.support.mover import make_entry_table, move, set_home
from tests.support.upgrading import (
    BODY,
    declare_steps,
    read_total,
    rows_of,
    to_2,
    upgrader,
    write_entry,
)

pytestmark = pytest.mark.interop


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The steps of `upgrading`, for this test."""
    monkeypatch.setattr(versions, "_declared", {})
    declare_steps()
    if "site" in request.fixturenames:
        make_entry_table(request.getfixturevalue("site").databases)


def version_in(site: TestSite, role: str, userid: int) -> int:
    """What ``global`` or a cluster says."""
    column = user.c.schema_ver if role == "global" else user_home.c.schema_ver
    with site.databases.read(role, definitive=True) as connection:
        return int(connection.scalar(select(column).where(column.table.c.userid == userid)) or 0)


def test_new_users_are_in_the_newest_version_or_the_one_that_is_set(site: TestSite) -> None:
    bob = site.users().create("bob", cluster=1)
    old = site.users(new_schema_ver=1).create("old", cluster=1)
    assert (bob.schema_ver, old.schema_ver) == (3, 1)
    for who in (bob, old):
        assert version_in(site, "cluster1", who.userid) == who.schema_ver
        assert version_in(site, "global", who.userid) == who.schema_ver
    with pytest.raises(UnknownVersion, match="no step to schema_ver 9"):
        site.users(new_schema_ver=9).create("eve")


def test_both_versions_are_served_and_a_step_changes_one_user(site: TestSite) -> None:
    cache = DictCache()
    users = site.users(cache, new_schema_ver=1)
    bob, eve = users.create("bob", cluster=1), users.create("eve", cluster=2)
    for who in (bob, bob, eve):
        assert write_entry(users, who.userid) == 1
    done = upgrader(site, users).upgrade(bob, 2)
    assert (done.before, done.user.schema_ver) == (1, 2)
    assert users.get(bob.userid).schema_ver == 2  # the cache has it
    assert write_entry(users, bob.userid) == 2
    assert write_entry(users, eve.userid) == 1
    assert read_total(users, bob.userid) == (2, 3, 3 * len(BODY))
    assert read_total(users, eve.userid) == (1, 2, 2 * len(BODY))
    assert upgrader(site, users).upgrade(bob, 3).before == 2
    assert read_total(users, bob.userid) == (3, 3, 3 * len(BODY))
    rev = users.reload(bob.userid).rev
    assert upgrader(site, users).upgrade(bob, 3).user.rev == rev  # nothing to do: nothing done


def test_two_steps_at_once_and_read_only_users_too(site: TestSite) -> None:
    users = site.users(new_schema_ver=1)
    bob = users.create("bob", cluster=1)
    write_entry(users, bob.userid)
    users.set_readonly(bob.userid, True)
    done = upgrader(site).upgrade(users.reload(bob.userid), 3)
    assert (done.before, done.user.schema_ver, done.user.readonly) == (1, 3, True)
    assert read_total(users, bob.userid) == (3, 1, len(BODY))


def test_what_is_refused(site: TestSite) -> None:
    users = site.users()
    bob = users.create("bob", cluster=1)
    with pytest.raises(Downgrade, match="bob is in schema_ver 3: there is no way back to 2"):
        upgrader(site).upgrade(bob, 2)
    with pytest.raises(UnknownVersion, match=r"knows 1\.\.3"):
        upgrader(site).upgrade(bob, 4)
    with site.databases.write("cluster1") as connection:
        connection.execute(user_home.delete().where(user_home.c.userid == bob.userid))
    with pytest.raises(HomeMissing, match="nothing was changed"):
        upgrader(site).upgrade(bob, 3)


def test_rows_of_a_later_release_are_not_written(
    site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = site.users()
    bob = users.create("bob", cluster=1)
    del versions._declared[3]  # a program of the release before
    with pytest.raises(UnknownVersion, match="run the newer release"):
        write_entry(users, bob.userid)
    assert rows_of(site.databases, 1, bob.userid) == 0


def test_a_step_that_fails_leaves_everything_as_it_was(
    site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = site.users(new_schema_ver=1)
    bob = users.create("bob", cluster=1)
    write_entry(users, bob.userid)

    def broken(connection: Connection, userid: int) -> None:
        to_2(connection, userid)
        raise RuntimeError("no")

    monkeypatch.setitem(versions._declared, 2, versions.Step(2, "", broken))
    with pytest.raises(RuntimeError, match="no"):
        upgrader(site).upgrade(bob, 3)
    assert version_in(site, "cluster1", bob.userid) == version_in(site, "global", bob.userid) == 1
    assert write_entry(users, bob.userid) == 1
    with site.databases.read("cluster1") as connection:
        assert connection.execute(text("SELECT * FROM total")).all() == []


@pytest.mark.parametrize("kill_at", [1, 2, 3])
def test_killed_before_any_commit_the_next_run_goes_on(
    site: TestSite, tmp_path: Path, kill_at: int
) -> None:
    """Commits: the step to 2, the step to 3, `global`."""
    users = site.users(new_schema_ver=1)
    bob = users.create("bob", cluster=1)
    for _ in range(3):
        write_entry(users, bob.userid)
    file = tmp_path / "databases.json"
    file.write_text(site.settings.model_dump_json())
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.lone_upgrader", str(file), str(bob.userid), "3",
         str(kill_at)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == KILLED, ended.stderr
    assert version_in(site, "cluster1", bob.userid) == kill_at
    assert version_in(site, "global", bob.userid) == 1
    # Rows and version agree, whatever `global` believes; and everybody goes on.
    assert read_total(users, bob.userid) == (kill_at, 3, 3 * len(BODY))
    assert write_entry(users, bob.userid) == kill_at
    (found,) = upgrader(site).find(1, 3)
    assert found.version == kill_at
    done = upgrader(site).upgrade(found.user, 3)
    assert (done.before, done.user.schema_ver) == (kill_at, 3)
    assert read_total(users, bob.userid) == (3, 4, 4 * len(BODY))
    assert list(upgrader(site).find(None, 3)) == []


def test_a_cluster_that_came_back_older_than_global_is_found(site: TestSite) -> None:
    users = site.users()
    bob = users.create("bob", cluster=1)
    with site.databases.write("cluster1") as connection:
        set_home(connection, bob.userid, schema_ver=1)
    assert write_entry(users, bob.userid) == 1
    (found,) = upgrader(site).find(None, 3)
    assert (found.user.schema_ver, found.version) == (3, 1)
    upgrader(site).upgrade(found.user, 3)
    assert read_total(users, bob.userid) == (3, 1, len(BODY))


def test_find_goes_through_pages(site: TestSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lj_services.usercluster.upgrade.PAGE", 2)
    users = site.users(new_schema_ver=1)
    made = [users.create(f"u{number}", cluster=1 + number % 2) for number in range(7)]
    one = upgrader(site, users)
    one.upgrade(made[2], 2)
    left = [who for who in made if who is not made[2]]
    assert [found.user.userid for found in one.find(None, 2)] == [who.userid for who in left]
    assert [found.user.userid for found in one.find(None, 2, 3)] == [w.userid for w in left[:3]]
    assert {found.user.clusterid for found in one.find(2, 2)} == {2}


def test_writers_lose_nothing_while_two_upgrade_at_once(site: TestSite) -> None:
    users = site.users(DictCache(), new_schema_ver=1)
    bob = users.create("bob", cluster=1)
    stop = threading.Event()
    written: list[int] = []
    errors: list[BaseException] = []
    lock = threading.Lock()

    def write() -> None:
        try:
            while not stop.is_set():
                version = write_entry(users, bob.userid)
                with lock:
                    written.append(version)
        except BaseException as error:
            errors.append(error)

    def bring(to: int) -> None:
        try:
            upgrader(site, users, freeze_wait_s=30).upgrade(bob, to)
        except BaseException as error:
            errors.append(error)

    def wait_for(version: int) -> None:
        until = time.monotonic() + 30
        while written.count(version) < 10:
            assert not errors
            assert time.monotonic() < until, written[-1:]
            time.sleep(0.005)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for thread in writers:
        thread.start()
    try:
        for version in (1, 2, 3):
            if version > 1:
                both = [threading.Thread(target=bring, args=(version,)) for _ in range(2)]
                for thread in both:
                    thread.start()
                for thread in both:
                    thread.join()
            wait_for(version)
    finally:
        stop.set()
        for thread in writers:
            thread.join()
    assert errors == []
    assert set(written) == {1, 2, 3}
    assert rows_of(site.databases, 1, bob.userid) == len(written)
    assert read_total(users, bob.userid) == (3, len(written), len(written) * len(BODY))


def test_a_step_waits_for_an_open_write_and_later_writes_wait_for_it(
    mariadb_site: TestSite,
) -> None:
    make_entry_table(mariadb_site.databases)
    users = mariadb_site.users(new_schema_ver=1)
    bob = users.create("bob", cluster=1)
    one = upgrader(mariadb_site, users)
    done = threading.Event()

    def bring() -> None:
        one.upgrade(bob, 2)
        done.set()

    thread = threading.Thread(target=bring)
    with users.writing(bob) as connection:
        assert versions.of(connection) == 1
        thread.start()
        until = time.monotonic() + 20
        while not _waits_for_a_lock(mariadb_site):
            assert time.monotonic() < until
            time.sleep(0.2)  # the server renews that table for whoever has not asked for 0.1 s
        assert not done.is_set()
    thread.join(20)
    assert done.is_set()
    assert write_entry(users, bob.userid) == 2


def _waits_for_a_lock(site: TestSite) -> bool:
    with site.databases.read("cluster1") as connection:
        return bool(
            connection.scalar(
                text("SELECT COUNT(*) FROM information_schema.innodb_trx "
                     "WHERE trx_state = 'LOCK WAIT'")
            )
        )  # fmt: skip


def test_a_frozen_user_is_waited_for(site: TestSite) -> None:
    users = site.users(new_schema_ver=1)
    bob = users.create("bob", cluster=1)
    with site.databases.write("cluster1") as connection:
        set_home(connection, bob.userid, state="frozen")
    with pytest.raises(UserBusy, match="being moved"):
        upgrader(site, freeze_wait_s=0.05).upgrade(bob, 2)
    assert version_in(site, "cluster1", bob.userid) == 1
    with site.databases.write("cluster1") as connection:
        set_home(connection, bob.userid, state="active")
    assert upgrader(site).upgrade(bob, 2).user.schema_ver == 2


def test_a_route_from_before_a_move_is_followed(site: TestSite) -> None:
    users = site.users(new_schema_ver=1)
    bob = users.create("bob", cluster=1)
    write_entry(users, bob.userid)
    upgrader(site).upgrade(bob, 2)
    # The least mover copies the tables of its own; this one is the application's.
    assert move(site.databases, bob.userid) == 2
    with site.databases.write("cluster2") as connection:
        to_2(connection, bob.userid)
    done = upgrader(site).upgrade(bob, 3)
    assert (done.user.clusterid, done.before) == (2, 2)
    assert version_in(site, "cluster1", bob.userid) == 2  # nobody's any more
    assert read_total(users, bob.userid) == (3, 1, len(BODY))


@pytest.mark.parametrize("state", ["copying", "catching_up", "verifying"])
def test_an_upgrade_in_the_middle_of_a_move(
    site: TestSite, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Once while chunks are copied, once before the cut-over; writers all the while."""
    moving.prepare(site.databases)
    users = site.users(new_schema_ver=1)
    bob = users.create("bob", cluster=1)
    for _ in range(20):
        write_entry(users, bob.userid)
    worker = moving.worker(site, users)
    seen: list[int] = []

    @event.listens_for(Engine, "commit")
    def upgrade_once(_connection: Connection) -> None:
        moves = [] if seen else worker.moves.list(userid=bob.userid, states=(state,))
        if moves and not seen:
            seen.append(0)
            thread = threading.Thread(target=bring)
            thread.start()

    def bring() -> None:
        seen.append(upgrader(site, freeze_wait_s=20).upgrade(bob, 3).before)
        write_entry(users, bob.userid)

    try:
        found = moving.move(worker, bob.userid, 2)
        found = moving.run_until(worker, found.move_id, "switched", "done")
    finally:
        event.remove(Engine, "commit", upgrade_once)
    until = time.monotonic() + 20
    while rows_of(site.databases, 2, bob.userid) < 21:
        assert time.monotonic() < until, seen
        time.sleep(0.02)
    assert users.reload(bob.userid).clusterid == 2
    assert read_total(users, bob.userid) == (3, 21, 21 * len(BODY))
    assert version_in(site, cluster_role(2), bob.userid) == 3


def test_a_move_carries_the_version_over(site: TestSite) -> None:
    moving.prepare(site.databases)
    users = site.users(new_schema_ver=1)
    bob = users.create("bob", cluster=1)
    write_entry(users, bob.userid)
    upgrader(site).upgrade(bob, 2)
    worker = moving.worker(site, users)
    for clusterid in (2, 1):
        assert moving.move(worker, bob.userid, clusterid).switched_at is not None
        assert version_in(site, cluster_role(clusterid), bob.userid) == 2
        assert write_entry(users, bob.userid) == 2
    assert read_total(users, bob.userid) == (2, 3, 3 * len(BODY))
