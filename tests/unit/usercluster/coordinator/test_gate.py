"""How a worker goes by what it was told, and what counts as a cluster's condition."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from lj_services.usercluster.coordinator.conditions import Disks, Lag, together
from lj_services.usercluster.coordinator.jobs import Job, Kind, scope
from lj_services.usercluster.coordinator.limits import Condition, Limits, changed
from lj_services.usercluster.coordinator.worker import Gate
from lj_services.usercluster.disks import Disk
from lj_services.usercluster.mover.errors import HandBack

pytestmark = pytest.mark.unit


def work(rows: int = 0, verified: int = 0) -> Any:
    return SimpleNamespace(
        progress={"rows": rows, "verified": verified},
        move=SimpleNamespace(ending=None),
        between_checks_s=0.2,
    )


def test_an_open_gate_is_passed_at_once() -> None:
    gate, one = Gate(None), work()
    began = time.monotonic()
    for rows in range(0, 1_000_000, 1000):
        one.progress["rows"] = rows
        gate(one)
    assert time.monotonic() - began < 2
    assert one.between_checks_s > 0


def test_rows_a_second_in_all_phases() -> None:
    gate, one = Gate(1000.0), work()
    gate(one)
    began = time.monotonic()
    one.progress["rows"] = 200
    gate(one)
    one.progress["verified"] = 200
    gate(one)
    assert time.monotonic() - began >= 0.39
    assert one.between_checks_s == 0


def test_held_until_told_otherwise() -> None:
    gate, passed = Gate(0.0), threading.Event()

    def go() -> None:
        gate(work())
        passed.set()

    thread = threading.Thread(target=go)
    thread.start()
    assert not passed.wait(0.3)
    gate.told(None, None)
    assert passed.wait(5)
    thread.join()


def test_handed_back_out_of_the_wait() -> None:
    gate, said = Gate(0.0), []

    def go() -> None:
        try:
            gate(work())
        except HandBack as error:
            said.append(str(error))

    thread = threading.Thread(target=go)
    thread.start()
    gate.told(0.0, "all is paused")
    thread.join(5)
    assert said == ["all is paused"]
    gate.told(None, None)  # once is enough: the move is on its way back
    with pytest.raises(HandBack):
        gate(work())


def test_an_undone_move_is_not_held() -> None:
    one = work()
    one.move.ending = "cancelled"
    Gate(0.0)(one)


def test_the_busiest_host_counts_while_it_speaks() -> None:
    disks = Disks(silent_s=10)
    disks.heard(1, "db1a", 0.5, now=100)
    disks.heard(1, "db1b", 0.7, now=105)
    disks.heard(2, "db2a", 0.1, now=105)
    assert disks.busiest(106) == {1: (0.7, "db1b"), 2: (0.1, "db2a")}
    disks.heard(1, "db1a", 0.2, now=112)
    assert disks.busiest(116) == {1: (0.2, "db1a")}


def test_balancing_gets_what_was_usual_and_the_least_room() -> None:
    disks = Disks(silent_s=10)
    for busy, now in ((0.9, 100), (0.1, 101), (0.2, 102)):
        disks.heard(1, "db1a", busy, now, Disk(1000, 400, "db1a:8"))
        disks.heard(1, "db1b", 0.3, now, Disk(900, 500, "db1b:8"))
    disks.heard(2, "db2a", None, 102, Disk(700, 700, "db2a:8"))  # can't tell how busy
    assert disks.busiest(102) == {1: (0.3, "db1b")}
    assert disks.means(102) == {1: pytest.approx(0.4)}
    assert disks.means(102) == {}
    assert {cluster: disk.device for cluster, disk in disks.fullest(102).items()} == {
        1: "db1a:8",
        2: "db2a:8",
    }
    assert disks.fullest(113) == {}


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        (Condition(), None),
        (Condition(lag_s=10, busy=0.9), None),
        (Condition(lag_s=11, lag_of="db2"), "cluster 3: replica db2 is 11 s behind (limit 10)"),
        (
            Condition(lag_why="replication is stopped", lag_of="db2"),
            "cluster 3: replica db2: replication is stopped",
        ),
        (
            Condition(busy=0.95, busy_of="db1"),
            "cluster 3: its disk is 95% busy, says db1 (limit 90%)",
        ),
    ],
)
def test_what_speaks_against_moves(condition: Condition, why: str | None) -> None:
    assert condition.against(3, Limits()) == why
    assert condition.against(3, Limits(lag_s=0, busy=1)) is None


def test_conditions_are_put_together() -> None:
    found = together({1: Lag(3.0, None, "db2")}, {2: (0.4, "db1")})
    assert found == {1: Condition(3.0, None, "db2"), 2: Condition(busy=0.4, busy_of="db1")}


def test_limits_are_changed_within_their_bounds() -> None:
    assert changed(Limits(), {"moves": 2.0, "rows_s": 0.5}) == Limits(moves=2, rows_s=0.5)
    for values in ({"moves": 1.5}, {"moves": -1.0}, {"busy": 0.0}, {"speed": 1.0}):
        with pytest.raises(ValueError, match="there are: moves"):
            changed(Limits(), values)


def test_scopes() -> None:
    assert [scope(text) for text in ("all", "src:3", "dst:40", "17", "move:17")] == [
        "all",
        "src:3",
        "dst:40",
        "move:17",
        "move:17",
    ]
    for text in ("", "src", "src:", "src:0", "src:x", "move:-1", "everything", "src:3 "):
        with pytest.raises(ValueError, match="write all"):
            scope(text)


@pytest.mark.parametrize(
    ("job", "kind"),
    [
        (Job(1, 1, 1, 2, "queued"), Kind.MOVE),
        (Job(1, 1, 1, 2, "verifying"), Kind.MOVE),
        (Job(1, 1, 1, 2, "copying", ending="cancelled"), Kind.MEND),
        (Job(1, 1, 1, 2, "frozen"), Kind.THAW),
        (Job(1, 1, 1, 2, "switched", switched_at=50, due_at=0), Kind.MEND),
        (Job(1, 1, 1, 2, "switched", switched_at=50, due_at=150), Kind.PURGE),
        (Job(1, 1, 1, 2, "purging", switched_at=50, due_at=0), Kind.PURGE),
    ],
)
def test_what_is_to_be_done(job: Job, kind: Kind) -> None:
    assert job.kind is kind
