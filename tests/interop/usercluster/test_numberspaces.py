"""Numbers of a user's spaces: unique and rising, whoever asks, whatever was lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, delete, insert, select, update

from lj_services.database import Databases, cluster_role
from lj_services.usercluster import Users, UserSettings, numberspaces
from lj_services.usercluster.numberspaces import GAP, allocate
from lj_services.usercluster.tables import counter, user, usercounter
from tests.support.databases import TestSite, site_on_mariadb
from tests.support.dict_cache import DictCache
from tests.support.mariadb import MariaDB

pytestmark = pytest.mark.interop

picture = Table(
    "picture",
    MetaData(),
    Column("userid", Integer, primary_key=True, autoincrement=False),
    Column("pictureid", Integer, primary_key=True, autoincrement=False),
)


@pytest.fixture
def declared_picture() -> Iterator[None]:
    numberspaces.declare("picture", picture.c.pictureid)
    yield
    del numberspaces._declared["picture"]


def take(users: Users, userid: int, space: str = "draft", count: int = 1) -> int:
    with users.writing(userid) as connection:
        return allocate(connection, userid, space, count)


def set_back(databases: Databases, clusterid: int, userid: int, to: int) -> None:
    """What a failover to an older copy does to a counter."""
    with databases.write(cluster_role(clusterid)) as connection:
        connection.execute(update(usercounter).where(usercounter.c.userid == userid).values(max=to))


def test_they_follow_one_another_per_user_and_space(site: TestSite) -> None:
    users = site.users()
    bob, alice = users.create("bob").userid, users.create("alice").userid
    assert [take(users, bob) for _ in range(3)] == [1, 2, 3]
    assert take(users, bob, count=100) == 4
    assert take(users, bob) == 104
    assert take(users, bob, "picture") == 1
    assert take(users, alice) == 1


def test_a_rollback_gives_numbers_back_with_their_rows(site: TestSite) -> None:
    users = site.users()
    bob = users.create("bob").userid
    with (  # noqa: PT012
        pytest.raises(ZeroDivisionError),
        users.writing(bob) as connection,
    ):
        assert allocate(connection, bob, "draft") == 1
        raise ZeroDivisionError
    assert take(users, bob) == 1


def test_32_threads_on_mariadb_make_no_duplicate(mariadb: MariaDB) -> None:
    """20,000 numbers of one user, in blocks of 1 to 8, each block a transaction of its own."""
    with site_on_mariadb(mariadb, pool_size=32, pool_wait_s=60) as site:
        users = site.users()
        bob = users.create("bob")
        taken: list[list[range]] = [[] for _ in range(32)]

        def work(mine: list[range], count: int) -> None:
            got = 0
            while got < 625:
                size = min(count, 625 - got)
                with users.writing(bob) as connection:
                    first = allocate(connection, bob.userid, "draft", size)
                mine.append(range(first, first + size))
                got += size

        threads = [
            threading.Thread(target=work, args=(mine, 1 + number % 8))
            for number, mine in enumerate(taken)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    numbers = [number for mine in taken for block in mine for number in block]
    assert len(numbers) == len(set(numbers)) == 20_000
    for mine in taken:  # rising for everyone who asks again
        firsts = [block.start for block in mine]
        assert firsts == sorted(firsts)


def test_the_first_numbers_of_a_space_are_unique_too(mariadb_site: TestSite) -> None:
    users = mariadb_site.users()
    bob = users.create("bob")
    for space in (f"space{number}" for number in range(20)):
        got: list[int] = []
        start = threading.Barrier(8)

        def work(
            space: str = space, got: list[int] = got, start: threading.Barrier = start
        ) -> None:
            start.wait()
            with users.writing(bob) as connection:
                got.append(allocate(connection, bob.userid, space))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == list(range(1, 9))


def test_a_failover_to_an_older_copy_hands_nothing_out_twice(site: TestSite) -> None:
    users = site.users(DictCache())
    bob = users.create("bob")
    handed_out = [take(users, bob.userid) for _ in range(20)]
    set_back(site.databases, bob.clusterid, bob.userid, 5)
    after = take(users, bob.userid)
    assert after == 20 + GAP + 1
    assert take(users, bob.userid) == after + 1
    assert after not in handed_out


def test_a_counter_that_is_gone_starts_beyond_hint_and_rows(
    site: TestSite, declared_picture: None
) -> None:
    cache = DictCache()
    users = site.users(cache)
    bob = users.create("bob")
    role = cluster_role(bob.clusterid)
    with site.databases.write(role) as connection:
        picture.metadata.create_all(connection)
        connection.execute(insert(picture).values(userid=bob.userid, pictureid=41))
        connection.execute(insert(picture).values(userid=bob.userid + 1, pictureid=1000))
    assert take(users, bob.userid, "picture") == 42
    with site.databases.write(role) as connection:
        connection.execute(delete(usercounter))
        connection.execute(insert(picture).values(userid=bob.userid, pictureid=500))
    assert take(users, bob.userid, "picture") == 501
    with site.databases.write(role) as connection:
        connection.execute(delete(usercounter))
        connection.execute(delete(picture))
    assert take(users, bob.userid, "picture") == 501 + GAP + 1


def test_userids_survive_an_older_copy_of_global(site: TestSite) -> None:
    users = site.users(DictCache())
    last = [users.create(f"user{number}").userid for number in range(5)][-1]
    with site.databases.write("global") as connection:
        connection.execute(delete(user).where(user.c.userid > 2))
        connection.execute(update(counter).values(max=2))
    assert users.create("later").userid > last


@pytest.mark.parametrize("space", ["", "Post", "post;DROP TABLE user", "p" * 17, "1st", "a b"])
def test_what_is_no_space_is_refused(sqlite_site: TestSite, space: str) -> None:
    users = sqlite_site.users()
    bob = users.create("bob")
    with users.writing(bob) as connection:
        with pytest.raises(ValueError, match="numberspace"):
            allocate(connection, bob.userid, space)
        with pytest.raises(ValueError, match="numberspace"):
            numberspaces.declare(space, picture.c.pictureid)
        for count in (0, -1, 10_001):
            with pytest.raises(ValueError, match="count"):
                allocate(connection, bob.userid, "draft", count)
        assert connection.scalar(select(usercounter.c.max)) is None


def test_processes_with_their_own_databases_share_a_space(mariadb_site: TestSite) -> None:
    bob = mariadb_site.users().create("bob")
    sites = [Databases(mariadb_site.settings) for _ in range(4)]
    numbers: list[int] = []

    def work(databases: Databases) -> None:
        users = Users(databases, None, UserSettings())
        for _ in range(50):
            numbers.append(take(users, bob.userid))

    threads = [threading.Thread(target=work, args=(databases,)) for databases in sites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for databases in sites:
        databases.close()
    assert sorted(numbers) == list(range(1, 201))
