"""Processes and servers that die at the worst moment."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import insert, select

from lj_services.database import DatabaseError, cluster_role
from lj_services.usercluster import UnknownUser, UserBusy
from lj_services.usercluster.numberspaces import allocate
from lj_services.usercluster.tables import user_home
from tests.support.databases import TestSite, site_on_mariadb
from tests.support.mariadb import ServerFactory
from tests.support.mover import entries, entry, make_entry_table

pytestmark = pytest.mark.faults

SIGN_UP = """
import os, sys
from lj_services.database import Databases, DatabaseSettings
from lj_services.usercluster import Users, UserSettings, creation

step, when = sys.argv[2].split()
original = getattr(creation, step)

def crashing(*args, **kwargs):
    if when == "before":
        os._exit(77)
    original(*args, **kwargs)
    os._exit(77)

def crash_inside(connection, made):
    os._exit(77)

within = None
if when == "inside":
    within = crash_inside
else:
    setattr(creation, step, crashing)
databases = Databases(DatabaseSettings.model_validate_json(sys.argv[1]))
Users(databases, None, UserSettings(min_free=0)).create("bob", within=within)
"""


@pytest.mark.parametrize(
    "step",
    ["reserve before", "reserve after", "plant before", "plant after", "enliven before",
     "enliven inside", "enliven after"],
)  # fmt: skip
def test_a_sign_up_that_dies_leaves_nothing_half_usable(site: TestSite, step: str) -> None:
    died = subprocess.run(
        [sys.executable, "-c", SIGN_UP, site.settings.model_dump_json(), step], check=False
    )
    assert died.returncode == 77
    users = site.users()
    if step == "enliven after":
        bob = users.find("bob")  # it was done, only nobody heard of it
    else:
        with pytest.raises(UnknownUser):
            users.find("bob")
        for userid in (1, 2):
            with pytest.raises(UnknownUser), users.writing(userid):
                pass
        assert users.list() == []
        bob = users.create("bob")
    with users.writing(bob.userid) as connection:
        assert allocate(connection, bob.userid, "draft") == 1
    homes = []
    for clusterid in site.databases.clusters():
        with site.databases.read(cluster_role(clusterid)) as connection:
            homes += connection.execute(
                select(user_home.c.epoch).where(user_home.c.state == "active")
            ).all()
    assert [home.epoch for home in homes].count(bob.epoch) == 1


def test_kill_9_of_mariadbd_loses_nothing_acknowledged(mariadb_server: ServerFactory) -> None:
    server = mariadb_server()
    with site_on_mariadb(server) as site:
        make_entry_table(site.databases)
        users = site.users(freeze_wait_s=0.5)
        people = [users.create(f"user{number}") for number in range(3)]
        acknowledged: dict[int, list[int]] = {person.userid: [] for person in people}
        stop = threading.Event()
        surprises: list[BaseException] = []

        def write(userid: int) -> None:
            while not stop.is_set():
                try:
                    with users.writing(userid) as connection:
                        number = allocate(connection, userid, "entry")
                        connection.execute(
                            insert(entry).values(userid=userid, entryid=number, body="x")
                        )
                    acknowledged[userid].append(number)
                except (DatabaseError, UserBusy):
                    time.sleep(0.02)  # down: the caller tries again later
                except BaseException as error:
                    surprises.append(error)
                    return

        threads = [
            threading.Thread(target=write, args=(person.userid,))
            for person in people
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                before = {userid: len(numbers) for userid, numbers in acknowledged.items()}
                deadline = time.monotonic() + 20
                while any(len(acknowledged[u]) < before[u] + 20 for u in before):
                    assert time.monotonic() < deadline, "writers did not come back"
                    assert surprises == []
                    time.sleep(0.01)
                server.kill()
                server.start()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert surprises == []
        for person in people:
            numbers = acknowledged[person.userid]
            assert len(numbers) == len(set(numbers)) >= 40
            assert set(numbers) <= entries(site.databases, person.clusterid, person.userid)
            with users.writing(person.userid) as connection:
                assert allocate(connection, person.userid, "entry") > max(numbers)
