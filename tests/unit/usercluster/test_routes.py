"""The cache in front of `global`: an old row never replaces a newer one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lj_services.usercluster import UnknownUser, User
from lj_services.usercluster.fence import Home, Verdict
from lj_services.usercluster.routes import Routes
from tests.support.databases import TestSite
from tests.support.dict_cache import DictCache

pytestmark = pytest.mark.unit

BOB = User(7, "bob", 1, 1, False, 1, 1)
MOVED = replace(BOB, clusterid=2, epoch=2, rev=2)
KEY = (7, "user:7")


def cached(cache: DictCache) -> tuple[int, int]:
    """(clusterid, rev) of what the cache has of Bob."""
    row = cache.get(KEY)
    return row[2], row[6]


def test_an_old_value_set_after_a_change_does_not_stick(sqlite_site: TestSite) -> None:
    cache = DictCache()
    routes = Routes(sqlite_site.databases, cache, 600)
    routes.remember(MOVED)  # whoever changed it
    routes.remember(BOB)  # a reader that had read before the change
    assert cached(cache) == (2, 2)


def test_a_newer_value_replaces_an_older_one(sqlite_site: TestSite) -> None:
    cache = DictCache()
    routes = Routes(sqlite_site.databases, cache, 600)
    routes.remember(BOB)
    routes.remember(MOVED)
    assert cached(cache) == (2, 2)


def test_a_change_between_gets_and_cas_wins(sqlite_site: TestSite) -> None:
    newest = replace(MOVED, clusterid=1, epoch=3, rev=3)

    class Interrupted(DictCache):
        between: Any = None

        def gets(self, key: Any) -> tuple[Any, int] | None:
            found = super().gets(key)
            if self.between is not None:
                act, self.between = self.between, None
                act()
            return found

    cache = Interrupted()
    routes = Routes(sqlite_site.databases, cache, 600)
    routes.remember(BOB)
    cache.between = lambda: Routes(sqlite_site.databases, cache, 600).remember(newest)
    routes.remember(MOVED)
    assert cached(cache) == (1, 3)


def test_a_cache_that_answers_nothing_costs_only_time(sqlite_site: TestSite) -> None:
    class Dead(DictCache):
        def get(self, key: Any, default: Any = None) -> Any:
            return default

        def get_many(self, keys: Any) -> dict[Any, Any]:
            return {}

        def gets(self, key: Any) -> None:
            return None

        def add(self, key: Any, value: Any, expire_s: int = 0) -> bool:
            return False

    users = sqlite_site.users(Dead())
    bob = users.create("bob")
    assert users.find("bob") == users.get(bob.userid) == bob
    assert users.set_readonly(bob.userid, True).readonly
    assert users.get_many([bob.userid])[bob.userid].readonly


@pytest.mark.parametrize(
    "nonsense", [None, "x", 5, [], [1, 2], [8, "bob", 1, 1, False, 1, 1], {"userid": 7}, [None] * 7]
)
def test_a_cached_value_that_is_no_user_is_a_miss(sqlite_site: TestSite, nonsense: object) -> None:
    cache = DictCache()
    cache.set(KEY, nonsense)
    with pytest.raises(UnknownUser):
        Routes(sqlite_site.databases, cache, 600).get(7)


def test_the_cache_answers_without_a_database(sqlite_site: TestSite) -> None:
    cache = DictCache()
    users = sqlite_site.users(cache)
    bob, alice = users.create("bob"), users.create("alice")
    users.find("bob")
    sqlite_site.databases.write = None  # type: ignore[method-assign,assignment]
    sqlite_site.databases.read = None  # type: ignore[method-assign,assignment]
    assert users.find("bob") == bob
    assert users.get_many([alice.userid, bob.userid]) == {
        alice.userid: alice, bob.userid: bob,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("home", "epoch", "verdict"),
    [
        (Home("active", 3, False), 3, Verdict.GO),
        (Home("active", 3, True), 3, Verdict.READ_ONLY),
        (Home("frozen", 3, False), 3, Verdict.FROZEN),
        (Home("frozen", 3, True), 3, Verdict.FROZEN),
        (Home("active", 3, False), 2, Verdict.STALE_ROUTE),
        (Home("active", 3, False), 4, Verdict.STALE_ROUTE),
        (Home("active", 3, True), 2, Verdict.STALE_ROUTE),
        (Home("frozen", 3, False), 2, Verdict.STALE_ROUTE),
        (Home("importing", 3, False), 3, Verdict.STALE_ROUTE),
        (Home("moved", 3, False), 3, Verdict.STALE_ROUTE),
        (Home("moved", 3, True), 3, Verdict.STALE_ROUTE),
    ],
)
def test_what_a_fence_row_means(home: Home, epoch: int, verdict: Verdict) -> None:
    assert home.verdict(epoch) is verdict
