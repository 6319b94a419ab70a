"""Which losses are out of order."""

from __future__ import annotations

from typing import Any

import pytest

from disk_checker.classify import Finding
from disk_checker.ledger import Totals
from disk_checker.result import Result
from tests.support.memory_run import make_plan

pytestmark = pytest.mark.unit


def lost(block: int, seq: int, acked_us: int) -> Finding:
    return Finding("lost", block, block * 4096, seq, acked_us, "a write", "an older one")


def result(**plan: Any) -> Result:
    return Result(7, make_plan(**plan), Totals())


def test_a_later_write_that_was_begun_after_the_acknowledgement_shows_it() -> None:
    found = result(threads=2)
    found.add(lost(0, 5, 100))
    found.survivor(100)
    assert found.reordered == 0
    found.survivor(101)
    assert found.reordered == 1


def test_so_does_a_later_batch_of_the_same_thread_whatever_the_times_say() -> None:
    """Blocks are built ahead: the time in them may be earlier than the acknowledgement."""
    found = result(threads=2)
    found.add(lost(4, 5, 100))
    found.survivor(50, {1: 6, 0: 4})
    assert found.reordered == 0, "thread 1 is not thread 0, and 4 is before 5"
    found.survivor(50, {0: 6})
    assert found.reordered == 1


@pytest.mark.parametrize(
    ("plan", "apart"),
    [
        ({"depth": 4}, 4),
        ({"workload": "innodb", "depth": 4}, 8),
        ({"depth": 4, "filled": True}, 1024),
        ({"depth": 4, "filled": True, "sync": "dsync"}, 4),
    ],
)
def test_of_one_batch_any_part_may_survive(plan: dict[str, Any], apart: int) -> None:
    found = result(**plan)
    found.add(lost(4, 5, 100))
    found.survivor(50, {0: 5 + apart - 1})
    assert found.reordered == 0
    found.survivor(50, {0: 5 + apart})
    assert found.reordered == 1
