"""A coordinator, workers and moves, on both engines."""

from __future__ import annotations

import re
import socket
import time
from itertools import pairwise
from typing import Any

import pytest

from lj_services.database import migrate
from lj_services.usercluster import UserSettings
from lj_services.usercluster.balance import store
from lj_services.usercluster.balance.loading import load_snapshot
from lj_services.usercluster.coordinator import AnotherRules, OrderRefused
from lj_services.usercluster.coordinator.client import Client, find, poke
from lj_services.usercluster.coordinator.lock import Lock
from lj_services.usercluster.coordinator.protocol import tokens
from lj_services.usercluster.mover.tables import AFTER_COMMIT, COPYING, DONE
from tests.support import moving
from tests.support.coordinating import Coordinating, coordinating, prepare, settle, working
from tests.support.databases import TestSite
from tests.support.process import wait_for

pytestmark = pytest.mark.interop


@pytest.fixture
def ready(site: TestSite) -> TestSite:
    prepare(site.databases)
    return site


def people(site: TestSite, count: int, notes: int = 40) -> list[int]:
    """Users on cluster 1, with something of theirs."""
    users = site.users()
    found = [users.create(f"user{number}", cluster=1).userid for number in range(count)]
    for userid in found:
        moving.fill(site.databases, 1, userid, notes)
    return found


def facts(client: Client, move_id: int) -> dict[str, str]:
    return tokens(client.call("show", move_id).text)[1]


def _add(userids: list[int]) -> bytes:
    return f"add_jobs {', '.join(f'{userid}:1:2' for userid in userids)}\n".encode()


def test_many_users_move_at_a_time(ready: TestSite) -> None:
    site = ready
    userids = people(site, 12)
    before = {userid: moving.content(site.databases, 1, userid) for userid in userids}
    with coordinating(site) as coordinator, working(site, 2):
        client = coordinator.client()
        reply = client.send(_add(userids))
        assert len(reply.lines) == 12
        assert all(line.startswith("Added job") for line in reply.lines)
        settle(site)
        stats = client.call("move_stats")
        assert "state=switched count=12" in stats.lines
        assert len(client.call("recent_moves").lines) == 12
        assert client.call("is_moving", userids[0]).text == "0"
        client.close()
    for userid in userids:
        assert moving.home(site.databases, userid) == 2
        assert moving.fences(site.databases, userid) == {1: "moved", 2: "active"}
        assert moving.content(site.databases, 2, userid) == before[userid]
        assert not any(moving.content(site.databases, 1, userid).values())
    assert moving.markers(site.databases) == []


def test_one_at_a_time(ready: TestSite) -> None:
    site = ready
    userids = people(site, 6)
    with coordinating(site) as coordinator:
        client = coordinator.client()
        assert "moves=1" in client.call("set_rate", "1:1").text  # as moveuclusterd has it
        with working(site, 2, slots=3):
            for userid in userids:
                client.call("add_jobs", f"{userid}:1:2")
            settle(site)
        client.close()
    spans = sorted(
        (move.started_at, move.switched_at) for move in moving.worker(site).moves.list(active=False)
    )
    assert len(spans) == 6
    assert all(one[1] <= two[0] for one, two in pairwise(spans)), spans


def test_what_is_paused_waits_and_says_why(ready: TestSite) -> None:
    site = ready
    (userid,) = people(site, 1)
    with coordinating(site) as coordinator, working(site):
        client = coordinator.client()
        client.call("pause", "src:1", why="new disk")
        client.call("add_jobs", f"{userid}:1:2")
        wait_for(
            lambda: (
                "nothing is due" in str(client.call("clients").lines)
                or "paused" in str(client.call("clients").lines)
            ),
            "the worker to ask",
        )
        found = facts(client, 1)
        assert found["state"] == "queued"
        assert found["why"] == "src:1 is paused: new disk"
        assert client.call("pauses").lines == ('scope=src:1 why="new disk"',)
        client.call("resume", "src:1")
        settle(site)
        client.close()
    assert moving.home(site.databases, userid) == 2


def test_a_pause_outlives_the_coordinator(ready: TestSite) -> None:
    site = ready
    (userid,) = people(site, 1)
    with coordinating(site) as coordinator:
        client = coordinator.client()
        client.call("pause", "all", why="lunch")
        client.call("set_rate", "dst:2", moves=3)
        client.close()
    with coordinating(site) as coordinator, working(site):
        assert poke(site.databases)
        client = coordinator.client()
        client.call("add_jobs", f"{userid}:1:2")
        assert facts(client, 1)["why"] == "paused: lunch"
        assert any(
            line.startswith("dst:2") and "moves=3" in line
            for line in client.call("show_rates").lines
        )
        client.call("resume")
        settle(site)
        client.close()


def test_a_running_move_is_slowed_paused_and_goes_on(ready: TestSite) -> None:
    site = ready
    (userid,) = people(site, 1, notes=1500)
    moves = moving.worker(site).moves
    with coordinating(site) as coordinator, working(site, chunk_bytes=10_000):
        client = coordinator.client()
        client.call("set_rate", "src:1", rows_s=400)
        client.call("add_jobs", f"{userid}:1:2")
        wait_for(lambda: int(facts(client, 1).get("rows", "0")) > 0, "rows to be copied")
        assert "400 rows/s for 1 moves" in facts(client, 1)["why"]
        began = time.monotonic()
        client.call("pause", "move:1", why="wait")
        wait_for(lambda: moves.get(1).owner is None, "the move to be handed back")
        assert time.monotonic() - began < 10
        found = moves.get(1)
        assert found.state == COPYING
        assert found.attempts == 0
        assert 0 < found.progress["rows"] < found.progress["total"]
        assert facts(client, 1)["why"] == "paused: wait"
        # Rows that went over stay there, and it goes on from them.
        client.call("reset_rate", "src:1")
        client.call("resume", "move:1")
        settle(site)
        client.close()
    assert moves.get(1).state == DONE
    assert moving.home(site.databases, userid) == 2


def test_rows_a_second(ready: TestSite) -> None:
    site = ready
    (userid,) = people(site, 1, notes=150)  # and as many tags: 301 rows, copied and verified
    with coordinating(site) as coordinator, working(site, chunk_bytes=4000):
        client = coordinator.client()
        client.call("set_rate", "dst:2", rows_s=200)
        client.call("add_jobs", f"{userid}:1:2")
        settle(site)
        client.close()
    (move,) = moving.worker(site).moves.list()
    assert move.switched_at is not None
    assert move.started_at is not None
    # The first chunks and what was verified last are not waited for.
    assert (move.switched_at - move.started_at) / 1000 > 0.5


def test_a_busy_disk_holds_moves(ready: TestSite) -> None:
    site = ready
    (userid,) = people(site, 1)
    with coordinating(site, host_silent_s=1.0) as coordinator, working(site):
        client = coordinator.client()
        client.call("load", cluster=2, host="db2a", busy=0.97)
        wait_for(
            lambda: any("busy_now=0.97" in line for line in client.call("show_rates").lines),
            "the report to count",
        )
        client.call("add_jobs", f"{userid}:1:2")
        why = facts(client, 1)["why"]
        assert why == "cluster 2: its disk is 97% busy, says db2a (limit 90%)"
        settle(site)  # the host falls silent, and counts for nothing
        client.close()


def test_what_hosts_tell_is_kept_for_balancing(ready: TestSite) -> None:
    site = ready
    migrate(site.databases, "global", [store.COMPONENT])
    settings = UserSettings.model_validate({"clusters": {1: {"capacity": "1m"}}})
    with coordinating(site, record_s=1.0) as coordinator:
        client = coordinator.client()
        # Cluster 1's host sees no disk space, one of cluster 2's not how busy the disk is.
        client.call("load", cluster=1, host="db1a", busy=0.5)
        client.call("load", cluster=2, host="db2a", free=3 << 20, total=4 << 20, device="x")
        client.call("load", cluster=2, host="db2b", busy=0.75)
        wait_for(lambda: store.free_as_recorded(site.databases, 2) is not None, "a record")
        one, two = load_snapshot(site.databases, settings).clusters
        assert (one.busy, one.disk_total) == (0.5, 1 << 20)
        assert (two.busy, two.disk_total, two.disk_used) == (0.75, 4 << 20, 1 << 20)
        client.close()


def test_cancelled_with_and_without_workers(ready: TestSite) -> None:
    site = ready
    userids = people(site, 2, notes=1000)
    moves = moving.worker(site).moves
    with coordinating(site) as coordinator:
        client = coordinator.client()
        client.call("add_jobs", f"{userids[0]}:1:2")
        client.call("cancel", 1)
        wait_for(lambda: moves.get(1).final, "the coordinator to cross it off")
        client.call("set_rate", "src:1", rows_s=100)
        client.call("add_jobs", f"{userids[1]}:1:2")
        with working(site):
            wait_for(lambda: moves.get(2).state == COPYING, "the copy to begin")
            client.call("cancel", 2, why="changed my mind")
            settle(site)
        client.close()
    assert [moves.get(number).state for number in (1, 2)] == ["cancelled", "cancelled"]
    for userid in userids:
        assert moving.fences(site.databases, userid) == {1: "active"}
        assert not any(moving.content(site.databases, 2, userid).values())


def test_never_two_coordinators(ready: TestSite) -> None:
    site = ready
    with coordinating(site) as coordinator:
        assert find(site.databases) == coordinator.settings.listen
        second = Coordinating(site)
        with pytest.raises(AnotherRules, match="another coordinator holds the lock"):
            second.start()
        second.databases.close()
        # Even one that believes to hold the lock: its term is over.
        impostor = Lock(site.databases, "127.0.0.1:1")
        impostor.term = impostor._begin_term()
        wait_for(lambda: not coordinator._thread.is_alive(), "the old one to stand down")
    with coordinating(site) as third:
        assert third.lock.term == impostor.term + 1
    assert find(site.databases) is None


def test_a_worker_that_ends_hands_back_what_takes_long(ready: TestSite) -> None:
    site = ready
    (userid,) = people(site, 1, notes=1000)
    moves = moving.worker(site).moves
    with coordinating(site) as coordinator:
        client = coordinator.client()
        client.call("set_rate", "src:1", rows_s=50)
        client.call("add_jobs", f"{userid}:1:2")
        with working(site, drain_s=0.2):
            wait_for(lambda: moves.get(1).state == COPYING, "the copy to begin")
        assert moves.get(1).owner is None
        assert moves.get(1).attempts == 0
        client.call("reset_rate", "src:1")
        with working(site):
            settle(site)
        client.close()
    assert moving.home(site.databases, userid) == 2


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"dance\n", "unknown_command"),
        (b"add_jobs 1:1\n", "usage"),
        (b"add_jobs 1:1:2 color=red\n", "usage"),
        (b"add_jobs 1:1:2,\n", "usage"),
        (b"pause everything\n", "usage"),
        (b"set_rate src:9 moves=1\n", "unknown"),
        (b"set_rate src:1\n", "usage"),
        (b"set_rate src:1 moves=-1\n", "usage"),
        (b"set_rate src:1 moves=1.5\n", "usage"),
        (b"set_rate src:1 speed=1\n", "usage"),
        (b"set_rate src:1 busy=2\n", "usage"),
        (b"cancel 99\n", "unknown"),
        (b"show x\n", "usage"),
        (b"get_job\n", "no_hello"),
        (b"hello worker=x\n", "usage"),
        (b"load cluster=7 host=h busy=0\n", "unknown"),
        (b"load cluster=1 host=h busy=nan\n", "usage"),
        (b"load cluster=1 host=h\n", "usage"),
        (b"load cluster=1 host=h busy=0 free=1\n", "usage"),
        (b"load cluster=1 host=h free=2 total=1\n", "usage"),
        (b"priority 1 99999999\n", "usage"),
    ],
)
def test_orders_that_are_refused(sqlite_site: TestSite, line: bytes, code: str) -> None:
    prepare(sqlite_site.databases)
    with coordinating(sqlite_site) as coordinator:
        client = coordinator.client()
        with pytest.raises(OrderRefused) as refused:
            client.send(line)
        assert refused.value.code == code
        assert client.call("help").lines  # and the connection goes on
        client.close()


def test_bad_clients_are_cut_off_and_disturb_nobody(sqlite_site: TestSite) -> None:
    prepare(sqlite_site.databases)
    with coordinating(sqlite_site, max_line=300, max_connections=5) as coordinator:
        address = ("127.0.0.1", coordinator.settings.listen.port)
        client = coordinator.client()
        for said in (b"x" * 5000, b"\xff\xfe\xfd\n", b"get_job\x00\n"):
            with socket.create_connection(address) as bad:
                bad.sendall(said)
                assert b"ERR protocol" in _everything(bad)
        with socket.create_connection(address) as half:
            half.sendall(b"source_counts\nhel")
            half.shutdown(socket.SHUT_WR)
            heard = _everything(half)
            assert heard.endswith(b"END\n")
        with socket.create_connection(address) as slow:
            for one in b"is_moving 5\r\nquit\r\n":
                slow.sendall(bytes([one]))
            assert re.fullmatch(rb"Ready.*\nOK 0\nOK bye\n", _everything(slow))
        crowd = [socket.create_connection(address) for _ in range(6)]
        assert any(_first(one).startswith(b"ERR busy") for one in crowd)
        for one in crowd:
            one.close()
        assert client.call("source_counts").lines
        client.close()


def test_subscribers_hear_what_happens(sqlite_site: TestSite) -> None:
    prepare(sqlite_site.databases)
    (userid,) = people(sqlite_site, 1)
    with coordinating(sqlite_site) as coordinator, working(sqlite_site):
        client = coordinator.client()
        client.call("subscribe")
        client.call("add_jobs", f"{userid}:1:2")
        heard: list[Any] = []

        def finished() -> bool:
            heard.extend(client.events(0.1))
            return any(event.kind == "finished" for event in heard)

        wait_for(finished, "the end of the move")
        assert any(event.kind == "granted" for event in heard)
        client.close()
    assert moving.worker(sqlite_site).moves.get(1).state in (*AFTER_COMMIT, DONE)


def _everything(connection: socket.socket) -> bytes:
    connection.settimeout(10)
    heard = b""
    try:
        while piece := connection.recv(1 << 16):
            heard += piece
    except ConnectionResetError:
        pass
    return heard


def _first(connection: socket.socket) -> bytes:
    connection.settimeout(10)
    return connection.recv(100)
