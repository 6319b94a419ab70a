"""When the watcher of a pair's server acts, and how."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.support.scripts import loaded
from tests.unit.heartbeat.conftest import Host

pytestmark = pytest.mark.unit


watcher = loaded("roles/heartbeat/files/lj-mysql-watch")
Act: Any = watcher.Act


def acts(*looks: tuple[str, bool, float], takes_s: float = 0.0) -> list[Any]:
    """What was done at each look: systemd's word, whether there was an answer, the time.

    A restart takes `takes_s` seconds.
    """
    watch = watcher.Watch(misses=3, window_s=300)
    done = []
    for look in looks:
        done.append(watch.see(*look))
        if done[-1] is Act.RESTART:
            watch.restarted(look[2] + takes_s)
    return done


def test_a_server_that_answers_is_left_alone() -> None:
    assert acts(*[("active", True, float(second)) for second in range(9)]) == [Act.NOTHING] * 9


def test_one_that_hangs_is_restarted_after_some_missing_answers_in_a_row() -> None:
    hangs = [("active", False, float(second)) for second in range(3)]
    assert acts(*hangs)[-1] is Act.RESTART
    assert acts(*hangs[:2], ("active", True, 2.0), *hangs[:2]) == [Act.NOTHING] * 5


@pytest.mark.parametrize("state", ["failed", "inactive"])
def test_one_that_has_ended_is_restarted_at_once(state: str) -> None:
    assert acts((state, False, 0.0)) == [Act.RESTART]


@pytest.mark.parametrize("state", ["activating", "deactivating"])
def test_one_that_recovers_or_ends_is_given_the_time(state: str) -> None:
    looks = [(state, False, float(second)) for second in range(100)]
    assert set(acts(*looks)) == {Act.NOTHING}


def test_the_second_time_within_the_window_the_peer_gets_the_group() -> None:
    assert acts(("failed", False, 0.0), ("failed", False, 299.0)) == [Act.RESTART, Act.HAND_OVER]
    assert acts(("failed", False, 0.0), ("failed", False, 300.0)) == [Act.RESTART, Act.RESTART]


def test_a_server_that_hangs_while_it_starts_is_handed_over_too() -> None:
    # systemd gives up after as long as the window is.
    looks = (("failed", False, 0.0), ("failed", False, 302.0))
    assert acts(*looks, takes_s=300.0) == [Act.RESTART, Act.HAND_OVER]


def test_a_group_that_the_peer_did_not_take_is_tried_here_again() -> None:
    done = acts(("failed", False, 0.0), ("failed", False, 1.0), ("failed", False, 2.0))
    assert done == [Act.RESTART, Act.HAND_OVER, Act.RESTART]


def test_one_of_which_systemd_says_nothing_is_given_as_long_as_one_that_runs() -> None:
    looks = [("unknown", False, float(second)) for second in range(3)]
    assert acts(*looks) == [Act.NOTHING, Act.NOTHING, Act.RESTART]


@pytest.mark.parametrize(
    ("disks", "peer", "can"),
    [
        ("UpToDate/UpToDate", "active", True),
        ("UpToDate/Outdated", "active", False),
        ("UpToDate/Inconsistent", "active", False),
        ("Diskless/UpToDate", "active", True),
        ("UpToDate/UpToDate", "dead", False),
        ("", "active", False),
    ],
)
def test_the_peer_gets_the_group_where_it_is_there_and_up_to_date(
    host: Host, monkeypatch: pytest.MonkeyPatch, disks: str, peer: str, can: bool
) -> None:
    host.answers("drbdadm", f"[ \"$*\" = 'dstate cluster1' ] && echo {disks}")
    me = os.uname().nodename
    host.answers(
        "cl_status",
        f"case $1 in listnodes) echo {me}; echo db1-b;; "
        f"nodestatus) [ $2 = {me} ] && echo active || echo {peer};; esac",
    )
    monkeypatch.setenv("PATH", host.path)
    assert watcher.peer_can("cluster1") is can
