"""Users with the kit's client in front of a real memcached."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import update

from lj_services.database import cluster_role
from lj_services.memcached.client import Client
from lj_services.memcached.client_config import ClientSettings
from lj_services.usercluster import User
from lj_services.usercluster.numberspaces import GAP, allocate
from lj_services.usercluster.tables import usercounter
from tests.support.databases import TestSite
from tests.support.memcached import MemcachedServer
from tests.support.mover import make_entry_table, move

pytestmark = pytest.mark.interop


@pytest.fixture
def cache(real_memcached: Callable[..., MemcachedServer]) -> Iterator[Client]:
    settings = ClientSettings.model_validate({"servers": [{"address": real_memcached().address}]})
    with Client.from_settings(settings) as client:
        yield client


def test_routes_are_cached_and_corrected(sqlite_site: TestSite, cache: Client) -> None:
    make_entry_table(sqlite_site.databases)
    users = sqlite_site.users(cache)
    bob = users.create("bob", cluster=1)
    assert users.find("bob") == bob
    assert cache.get((bob.userid, f"user:{bob.userid}"))[2] == 1

    move(sqlite_site.databases, bob.userid)  # and tells the cache nothing
    assert users.get(bob.userid).clusterid == 1
    with users.writing(bob.userid) as connection:  # the fence finds out
        allocate(connection, bob.userid, "entry")
    assert users.get(bob.userid).clusterid == 2

    users._routes.remember(bob)  # a late reader with the row from before the move
    assert users.get(bob.userid).clusterid == 2
    assert users.set_readonly(bob.userid, True) == users.get(bob.userid)


def test_many_are_found_in_one_round(sqlite_site: TestSite, cache: Client) -> None:
    users = sqlite_site.users(cache)
    made = [users.create(f"user{number}") for number in range(20)]
    asked = [user.userid for user in made]
    sqlite_site.databases.read = None  # type: ignore[method-assign,assignment]
    found = users.get_many(asked)
    assert list(found.values()) == made
    assert all(isinstance(user, User) for user in found.values())


def test_hints_outlive_the_database(sqlite_site: TestSite, cache: Client) -> None:
    users = sqlite_site.users(cache)
    bob = users.create("bob")
    for expected in (1, 2, 3):
        with users.writing(bob) as connection:
            assert allocate(connection, bob.userid, "draft") == expected
    with sqlite_site.databases.write(cluster_role(bob.clusterid)) as connection:
        connection.execute(update(usercounter).values(max=1))
    with users.writing(bob) as connection:
        assert allocate(connection, bob.userid, "draft") == 3 + GAP + 1
