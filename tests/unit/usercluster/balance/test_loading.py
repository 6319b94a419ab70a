"""What a snapshot takes from `global` and the site file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import insert, text, update

from lj_services.database import migrate
from lj_services.usercluster import UserSettings, mover
from lj_services.usercluster.balance import store
from lj_services.usercluster.balance.loading import CapacityUnknown, load_snapshot
from lj_services.usercluster.balance.rules import ClusterState
from lj_services.usercluster.balance.snapshot import MOVING, PINNED, RECENT, Snapshot
from lj_services.usercluster.disks import Data, Disk
from lj_services.usercluster.mover.tables import COPYING, DONE, SWITCHED, user_move
from lj_services.usercluster.tables import user
from tests.support.databases import TestSite

pytestmark = pytest.mark.unit

NOW = 1_000_000
SETTINGS: dict[str, Any] = {"clusters": {1: {"capacity": 10_000}, 2: {"capacity": "1m"}}}


@pytest.fixture
def site(sqlite_site: TestSite) -> Iterator[TestSite]:
    """Users 1 to 5 on cluster 1 with 100, 200 ... bytes; 6 is not surveyed."""
    migrate(sqlite_site.databases, "global", [store.COMPONENT, mover.COMPONENT])
    users = sqlite_site.users()
    userids = [users.create(f"u{i}", cluster=1).userid for i in range(6)]
    assert userids == [1, 2, 3, 4, 5, 6]
    with sqlite_site.databases.write("global") as connection:
        sizes = {userid: (userid, userid * 100) for userid in range(1, 6)}
        store.record_sizes(connection, 1, sizes, NOW - 90_000)
    return sqlite_site


def load(site: TestSite, **settings: Any) -> Snapshot:
    return load_snapshot(site.databases, UserSettings.model_validate(settings or SETTINGS), now=NOW)


def flags(snapshot: Snapshot) -> dict[int, int]:
    pairs = zip(snapshot.users.userid.tolist(), snapshot.users.flags.tolist(), strict=True)
    return {userid: flag for userid, flag in pairs if flag}


def add_move(site: TestSite, userid: int, state: str, switched_at: int | None = None) -> None:
    with site.databases.write("global") as connection:
        connection.execute(
            insert(user_move).values(
                userid=userid,
                active_userid=userid if state == COPYING else None,
                src=1,
                dst=2,
                home_epoch=1,
                state=state,
                claim=0,
                lease_until=0,
                due_at=0,
                attempts=0,
                priority=0,
                options="{}",
                progress="{}",
                created_at=0,
                switched_at=switched_at,
            )
        )
        if switched_at is not None:
            connection.execute(update(user).where(user.c.userid == userid).values(clusterid=2))


def test_users_and_clusters(site: TestSite) -> None:
    store.record_write_rates(site.databases, {2: 1.5})
    store.record_busy(site.databases, 1, 0.7, 12.0)
    found = load(site)
    assert found.users.userid.tolist() == [1, 2, 3, 4, 5]
    assert found.users.size.tolist() == [100, 200, 300, 400, 500]
    assert found.users.rows.tolist() == [1, 2, 3, 4, 5]
    assert found.users.write_rate.tolist() == [0, 1.5, 0, 0, 0]
    one, two = found.clusters
    assert (one.clusterid, one.disk_total, one.disk_used) == (1, 10_000, 1500)
    assert (one.busy, one.write_rate, one.unsurveyed, one.weight) == (0.7, 12.0, 1, 100)
    assert (two.disk_total, two.disk_used, two.busy, two.unsurveyed) == (1 << 20, 0, None, 0)
    assert one.embedded
    assert flags(found) == {}


def test_who_may_not_move(site: TestSite) -> None:
    store.pin(site.databases, [1], "for a reason")
    add_move(site, 2, COPYING)
    add_move(site, 3, DONE, switched_at=(NOW - 80_000) * 1000)
    add_move(site, 4, DONE, switched_at=(NOW - 89_000) * 1000)
    with site.databases.write("global") as connection:
        connection.execute(text("UPDATE balance_user SET clusterid = 2 WHERE userid = 4"))
        connection.execute(
            text("UPDATE balance_user SET moved_at = :at WHERE userid = 5"), {"at": NOW - 10}
        )
    # 4 moved before the cool-down began, and has been surveyed at the new place since.
    assert flags(load(site)) == {1: PINNED, 2: MOVING, 3: RECENT, 5: RECENT}


def test_rows_that_are_kept_for_a_grace_time_call_for_no_more_moves(site: TestSite) -> None:
    assert load(site).clusters[0].disk_used == 1500
    store.record_disk(site.databases, 1, Data(5000, 0), None)
    assert load(site).clusters[0].disk_used == 5000
    add_move(site, 5, SWITCHED, switched_at=NOW * 1000)
    assert load(site).clusters[0].disk_used == 4500


def test_a_disk_that_was_measured(site: TestSite) -> None:
    store.record_disk(site.databases, 1, Data(2000, 300), Disk(9000, 4000, "a:1"))
    store.record_disk(site.databases, 2, Data(0, 0), Disk(9000, 9000, "b:1"))
    one = load(site, clusters={}).clusters[0]
    # 300 bytes inside the data's files are free, too.
    assert (one.disk_total, one.disk_used) == (9000, 4700)


def test_clusters_on_one_disk_share_what_is_free(site: TestSite) -> None:
    for number in (1, 2):
        store.record_disk(site.databases, number, Data(2000, 0), Disk(9000, 4000, "a:1"))
    disks = [(c.disk_total, c.disk_used) for c in load(site, clusters={}).clusters]
    assert disks == [(4000, 2000), (4000, 2000)]


def test_states_and_weights_of_the_site_file(site: TestSite) -> None:
    found = load(
        site,
        clusters={1: {"capacity": 10_000, "state": "draining"}, 2: {"state": "dead"}},
        cluster_weights={1: 50},
    )
    assert [c.state for c in found.clusters] == [ClusterState.DRAINING, ClusterState.DEAD]
    assert [c.weight for c in found.clusters] == [50, 0]


def test_a_disk_that_nobody_knows_is_refused(site: TestSite) -> None:
    with pytest.raises(CapacityUnknown, match=r"cluster 2 is: .*\[users.clusters.2\]"):
        load(site, clusters={1: {"capacity": 1}})


def test_what_a_host_tells_stays_when_the_survey_can_not_see_the_disk(site: TestSite) -> None:
    store.record_space(site.databases, 1, Disk(9000, 4000, "db1:8"))
    store.record_disk(site.databases, 1, Data(2000, 300), None)
    one = load(site, clusters={2: {"capacity": 1}}).clusters[0]
    assert (one.disk_total, one.disk_used) == (9000, 4700)
    assert store.free_as_recorded(site.databases, 1) == 4000
    assert store.free_as_recorded(site.databases, 2) is None
    with site.databases.write("global") as connection:
        connection.execute(text("UPDATE balance_cluster SET measured_at = measured_at - 601"))
    assert store.free_as_recorded(site.databases, 1) is None


def test_without_tables_for_balancing_nobody_tells(sqlite_site: TestSite) -> None:
    assert store.free_as_recorded(sqlite_site.databases, 1) is None


def test_a_host_that_fell_silent_says_nothing_of_today(site: TestSite) -> None:
    store.record_busy(site.databases, 1, 0.7)
    for at, busy in ((NOW - 86_399, 0.7), (NOW - 86_400, None)):
        with site.databases.write("global") as connection:
            connection.execute(text("UPDATE balance_cluster SET busy_at = :at"), {"at": at})
        assert load(site).clusters[0].busy == busy
