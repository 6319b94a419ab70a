"""The write fence under a mover: nothing acknowledged is lost, nothing is accepted twice."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict

import pytest
from sqlalchemy import insert

from lj_services.database import DatabaseBusy, cluster_role
from lj_services.usercluster import HomeMissing, UserBusy, UserReadOnly
from lj_services.usercluster.numberspaces import allocate
from lj_services.usercluster.tables import user_home
from tests.support.databases import TestSite
from tests.support.dict_cache import DictCache
from tests.support.mover import entries, entry, make_entry_table, move, set_home

pytestmark = pytest.mark.faults


class Ledger:
    """What was acknowledged, kept outside the databases."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, list[int]] = defaultdict(list)
        self.busy = 0
        self.errors: list[BaseException] = []


@pytest.mark.parametrize("cached", [False, True], ids=["uncached", "stale cache"])
def test_writers_and_movers(site: TestSite, cached: bool) -> None:
    """Writers write while their users are moved to and fro.

    With the cache, nobody ever corrects it but the fence: every route goes stale.
    """
    make_entry_table(site.databases)
    users = site.users(DictCache() if cached else None)
    people = [users.create(f"user{number}").userid for number in range(3)]
    ledger = Ledger()
    stop = threading.Event()

    def write(userid: int) -> None:
        while not stop.is_set():
            try:
                with users.writing(userid) as connection:
                    number = allocate(connection, userid, "entry")
                    connection.execute(
                        insert(entry).values(userid=userid, entryid=number, body="x")
                    )
                ledger.acknowledged[userid].append(number)
            except (UserBusy, DatabaseBusy):
                ledger.busy += 1
            except BaseException as error:
                ledger.errors.append(error)
                return

    writers = [threading.Thread(target=write, args=(u,)) for u in people for _ in range(2)]
    for thread in writers:
        thread.start()
    moves = 0
    end = time.monotonic() + 2.5
    try:
        while time.monotonic() < end:
            move(site.databases, random.choice(people), hold_s=random.uniform(0, 0.01))
            moves += 1
    finally:
        stop.set()
        for thread in writers:
            thread.join()

    assert ledger.errors == []
    assert moves >= 5
    for userid in people:
        acknowledged = ledger.acknowledged[userid]
        assert len(acknowledged) >= 10
        assert len(acknowledged) == len(set(acknowledged)), "a number was given out twice"
        home = users.reload(userid).clusterid
        at_home = entries(site.databases, home, userid)
        assert set(acknowledged) <= at_home, "an acknowledged write is lost"
        for clusterid in site.databases.clusters():
            strays = entries(site.databases, clusterid, userid) - at_home
            assert strays == set(), f"cluster {clusterid} accepted writes that are not at home"


def test_a_frozen_user_is_waited_for_and_then_busy(site: TestSite) -> None:
    make_entry_table(site.databases)
    users = site.users(freeze_wait_s=0.3)
    bob = users.create("bob")
    role = cluster_role(bob.clusterid)
    with site.databases.write(role) as connection:
        set_home(connection, bob.userid, state="frozen")
    start = time.monotonic()
    with pytest.raises(UserBusy, match="try again"), users.writing(bob.userid):
        pass
    assert 0.3 <= time.monotonic() - start < 2

    def thaw() -> None:
        with site.databases.write(role) as connection:
            set_home(connection, bob.userid, state="active")

    timer = threading.Timer(0.1, thaw)
    timer.start()
    with users.writing(bob.userid) as connection:
        connection.execute(insert(entry).values(userid=bob.userid, entryid=1, body="x"))
    timer.join()
    assert entries(site.databases, bob.clusterid, bob.userid) == {1}


def test_a_mover_that_died_between_switch_and_tombstone_holds_nobody(site: TestSite) -> None:
    make_entry_table(site.databases)
    users = site.users()
    bob = users.create("bob", cluster=1)
    move(site.databases, bob.userid)
    with site.databases.write("cluster1") as connection:
        set_home(connection, bob.userid, state="frozen")
    with users.writing(bob) as connection:  # with the route of before
        connection.execute(insert(entry).values(userid=bob.userid, entryid=1, body="x"))
    assert entries(site.databases, 2, bob.userid) == {1}


def test_freezing_waits_for_writers_that_are_under_way(site: TestSite) -> None:
    make_entry_table(site.databases)
    users = site.users()
    bob = users.create("bob")
    order: list[str] = []
    inside = threading.Event()

    def freeze() -> None:
        inside.wait(5)
        with site.databases.write(cluster_role(bob.clusterid)) as connection:
            set_home(connection, bob.userid, state="frozen")
            order.append("frozen")

    thread = threading.Thread(target=freeze)
    thread.start()
    with users.writing(bob) as connection:
        connection.execute(insert(entry).values(userid=bob.userid, entryid=1, body="x"))
        inside.set()
        thread.join(0.3)
        assert thread.is_alive(), "the freeze went past a writer"
        order.append("written")
    thread.join()
    assert order == ["written", "frozen"]


def test_readonly_is_exact(site: TestSite) -> None:
    """Once set_readonly has returned, no write is accepted; those before it all are there."""
    make_entry_table(site.databases)
    users = site.users(DictCache())
    bob = users.create("bob")
    acknowledged: list[int] = []
    refused = threading.Event()
    late: list[int] = []
    switched = threading.Event()

    def write() -> None:
        while not refused.is_set():
            began_after = switched.is_set()
            try:
                with users.writing(bob.userid) as connection:
                    number = allocate(connection, bob.userid, "entry")
                    connection.execute(
                        insert(entry).values(userid=bob.userid, entryid=number, body="x")
                    )
                acknowledged.append(number)
                if began_after:
                    late.append(number)
            except UserReadOnly:
                refused.set()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 20:
        time.sleep(0.005)
    users.set_readonly(bob.userid, True)
    at_return = entries(site.databases, bob.clusterid, bob.userid)
    switched.set()
    for thread in threads:
        thread.join()
    assert late == []
    assert entries(site.databases, bob.clusterid, bob.userid) == at_return == set(acknowledged)
    assert users.get(bob.userid).readonly
    users.set_readonly(bob.userid, False)
    with users.writing(bob.userid) as connection:
        allocate(connection, bob.userid, "entry")


def test_readonly_moves_with_the_user(site: TestSite) -> None:
    make_entry_table(site.databases)
    users = site.users(DictCache())
    bob = users.create("bob")
    users.set_readonly(bob.userid, True)
    move(site.databases, bob.userid)
    with pytest.raises(UserReadOnly), users.writing(bob.userid):
        pass
    users.set_readonly(bob.userid, False)
    with users.writing(bob.userid):
        pass


def test_readonly_waits_for_a_move(site: TestSite) -> None:
    make_entry_table(site.databases)
    users = site.users(freeze_wait_s=5)
    bob = users.create("bob")
    began = threading.Event()

    def moving() -> None:
        began.set()
        move(site.databases, bob.userid, hold_s=0.2)

    thread = threading.Thread(target=moving)
    thread.start()
    began.wait(5)
    for switch in (True, False, True):
        users.set_readonly(bob.userid, switch)
    thread.join()
    assert users.reload(bob.userid).readonly
    with pytest.raises(UserReadOnly), users.writing(bob.userid):
        pass


def test_a_cluster_that_forgot_a_user_is_told_at_once(site: TestSite) -> None:
    users = site.users()
    bob = users.create("bob")
    with site.databases.write(cluster_role(bob.clusterid)) as connection:
        connection.execute(user_home.delete().where(user_home.c.userid == bob.userid))
    with pytest.raises(HomeMissing, match="does not know them"), users.writing(bob.userid):
        pass
    with pytest.raises(HomeMissing):
        users.set_readonly(bob.userid, True)
