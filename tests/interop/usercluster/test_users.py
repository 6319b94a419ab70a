"""Making and finding users, on both engines."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import event, insert, select, text

from lj_services.daemon import ConfigError
from lj_services.database import Databases, DatabaseUnreachable, cluster_role
from lj_services.usercluster import (
    BadName,
    NameTaken,
    NoCluster,
    NoRoom,
    UnknownUser,
    User,
    Users,
    UserSettings,
    creation,
)
from lj_services.usercluster.numberspaces import allocate
from lj_services.usercluster.tables import user, user_home
from tests.support.databases import TestSite
from tests.support.dict_cache import DictCache
from tests.support.mover import entry, make_entry_table, move

pytestmark = pytest.mark.interop


def home_rows(site: TestSite, userid: int) -> list[int]:
    """The clusters that know a user."""
    found = []
    for clusterid in site.databases.clusters():
        with site.databases.read(cluster_role(clusterid)) as connection:
            if connection.scalar(select(user_home.c.userid).where(user_home.c.userid == userid)):
                found.append(clusterid)
    return found


@pytest.mark.parametrize("cached", [False, True])
def test_made_and_found(site: TestSite, cached: bool) -> None:
    users = site.users(DictCache() if cached else None)
    bob = users.create("bob", cluster=2)
    alice = users.create("alice_1", cluster=1)
    assert (bob.name, bob.clusterid, bob.epoch, bob.readonly) == ("bob", 2, 1, False)
    for _ in range(2):  # once from the database, once from the cache
        assert users.find("bob") == users.get(bob.userid) == bob
        assert users.get_many([alice.userid, 99_999, bob.userid]) == {
            alice.userid: alice, bob.userid: bob,
        }  # fmt: skip
    assert home_rows(site, bob.userid) == [2]
    assert users.list() == [bob, alice]
    assert users.list(cluster=1) == [alice]
    assert users.list(after=bob.userid) == [alice]
    assert users.list(limit=1) == [bob]
    for unknown in ("nobody", "", "x" * 5000, "' OR 1=1 --", "BOB", "日本"):
        with pytest.raises(UnknownUser):
            users.find(unknown)
    with pytest.raises(UnknownUser):
        users.get(12_345)
    with pytest.raises(UnknownUser), users.writing(12_345):
        pass


@pytest.mark.parametrize(
    "name", ["", "Bob", "a b", "a-b", "é", "x" * 26, "x" * 1_000_000, "a'; DROP TABLE user; --",
             "../x", "a\n", "a\0"],
)  # fmt: skip
def test_names_that_are_none(sqlite_site: TestSite, name: str) -> None:
    users = sqlite_site.users()
    with pytest.raises(BadName, match="1 to 25") as caught:
        users.create(name)
    assert len(str(caught.value)) < 200
    assert users.list() == []


def test_a_name_goes_to_one_of_many_who_want_it(site: TestSite) -> None:
    users = site.users()
    made: list[User] = []
    taken: list[NameTaken] = []
    start = threading.Barrier(6)

    def want() -> None:
        start.wait()
        try:
            made.append(users.create("bob"))
        except NameTaken as error:
            taken.append(error)

    for _ in range(5):
        made.clear()
        taken.clear()
        threads = [threading.Thread(target=want) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(made), len(taken)) == (1, 5)
        assert home_rows(site, made[0].userid) == [made[0].clusterid]
        with site.databases.write("global") as connection:
            connection.execute(user.delete())


def test_what_must_exist_with_the_user_is_one_transaction(site: TestSite) -> None:
    users = site.users()
    with site.databases.write("global") as connection:
        connection.execute(text("CREATE TABLE secret (userid INTEGER PRIMARY KEY)"))

    def fail(connection: object, made: User) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        users.create("bob", within=fail)
    with pytest.raises(UnknownUser):
        users.find("bob")
    bob = users.create(
        "bob",
        within=lambda connection, made: connection.execute(
            text("INSERT INTO secret VALUES (:userid)"), {"userid": made.userid}
        ) and None,
    )  # fmt: skip
    with site.databases.read("global") as connection:
        assert list(connection.scalars(text("SELECT userid FROM secret"))) == [bob.userid]


def test_clusters_are_drawn_by_weight(site: TestSite) -> None:
    users = site.users(cluster_weights={1: 300, 2: 100})
    drawn = Counter(users._placement.pick() for _ in range(4000))
    assert 0.70 < drawn[1] / 4000 < 0.80
    users = site.users(cluster_weights={1: 0, 2: 1})
    assert {users.create(f"user{number}").clusterid for number in range(5)} == {2}
    with pytest.raises(NoRoom, match="every weight is 0"):
        site.users(cluster_weights={1: 0}).create("late")


def test_full_clusters_take_nobody(site: TestSite) -> None:
    users = Users(site.databases, None, UserSettings(min_free=1 << 60))
    with pytest.raises(NoRoom, match="MB free"):
        users.create("bob")


def test_a_cluster_that_there_is_not(site: TestSite) -> None:
    with pytest.raises(NoCluster, match="there are: 1, 2"):
        site.users().create("bob", cluster=3)
    with pytest.raises(ConfigError, match="cluster 7"):
        site.users(cluster_weights={7: 1})


def test_a_cluster_that_fails_while_a_user_is_made_is_left_for_another(
    sqlite_site: TestSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = sqlite_site.users()
    monkeypatch.setattr(users._placement, "pick", lambda excluding=(): 2 if 1 in excluding else 1)
    plant = creation.plant

    def broken(databases: Databases, claim: creation.Claim, schema_ver: int) -> int:
        planted = plant(databases, claim, schema_ver)
        if claim.clusterid == 1:  # the worst moment: it has planted, and nobody knows
            raise DatabaseUnreachable("gone")
        return planted

    monkeypatch.setattr(creation, "plant", broken)
    bob = users.create("bob")
    assert (bob.clusterid, bob.epoch) == (2, 2)
    monkeypatch.undo()
    with users.writing(bob.userid) as connection:
        assert allocate(connection, bob.userid, "draft") == 1
    stale = User(bob.userid, "bob", 1, 2, False, 1)
    with users.writing(stale) as connection:  # the row left on cluster 1 has an older epoch
        assert allocate(connection, bob.userid, "draft") == 2
    monkeypatch.setattr(creation, "plant", broken)
    with pytest.raises(DatabaseUnreachable):
        users.create("carol", cluster=1)


def test_the_fence_costs_one_primary_key_read(site: TestSite) -> None:
    """Statements on the cluster inside `writing`, against the same inside a bare transaction."""
    make_entry_table(site.databases)
    users = site.users()
    bob = users.create("bob", cluster=1)
    seen: list[str] = []
    engine = site.databases.writer("cluster1")._engines["write"]

    @event.listens_for(engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        seen.append(statement)

    with users.writing(bob) as connection:
        connection.execute(insert(entry).values(userid=bob.userid, entryid=1, body="x"))
    fenced, seen[:] = list(seen), []
    with site.databases.write("cluster1") as connection:
        connection.execute(insert(entry).values(userid=bob.userid, entryid=2, body="x"))
    bare = list(seen)
    assert len(fenced) == len(bare) + 1
    (extra,) = [statement for statement in fenced if statement not in bare]
    assert "FROM user_home" in extra
    if site.engine == "mariadb":
        assert "LOCK IN SHARE MODE" in extra
        with site.databases.read("cluster1") as connection:
            plan = connection.execute(text(f"EXPLAIN {extra.split('LOCK')[0]}".replace(
                "%(whom)s", str(bob.userid)))).mappings().one()  # fmt: skip
        assert (plan["type"], plan["key"], int(plan["rows"])) == ("const", "PRIMARY", 1)


def test_reading_follows_a_move_and_takes_positions_of_the_old_home(site: TestSite) -> None:
    make_entry_table(site.databases)
    users = site.users(DictCache())
    bob = users.create("bob", cluster=1)
    with users.writing(bob) as connection:
        connection.execute(insert(entry).values(userid=bob.userid, entryid=1, body="x"))
    seen = users.position(bob)
    assert seen.role == "cluster1"
    move(site.databases, bob.userid)
    users.reload(bob.userid)
    with users.reading(bob.userid, after=seen) as connection:
        assert list(connection.scalars(select(entry.c.entryid))) == [1]
    assert users.position(bob.userid).role == "cluster2"
