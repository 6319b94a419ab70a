"""When the watcher of a pair's server acts, and how."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

import pytest

from tests.support.box import CHECKOUT

pytestmark = pytest.mark.unit


def loaded() -> ModuleType:
    path = CHECKOUT / "roles/heartbeat/files/lj-mysql-watch"
    loader = SourceFileLoader("mysql_watch", str(path))
    spec = importlib.util.spec_from_loader("mysql_watch", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


watcher = loaded()
Act: Any = watcher.Act


def acts(*looks: tuple[str, bool, float]) -> list[Any]:
    """What was done at each look: systemd's word, whether there was an answer, the time."""
    watch = watcher.Watch(misses=3, window_s=300)
    return [watch.see(*look) for look in looks]


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


def test_a_group_that_the_peer_did_not_take_is_tried_here_again() -> None:
    done = acts(("failed", False, 0.0), ("failed", False, 1.0), ("failed", False, 2.0))
    assert done == [Act.RESTART, Act.HAND_OVER, Act.RESTART]
