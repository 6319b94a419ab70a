"""Which losses are out of order."""

from __future__ import annotations

from typing import Any

import pytest

from disk_checker.classify import Finding
from disk_checker.fold import Totals
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


@pytest.mark.parametrize(
    ("ended", "same_boot", "cut_us", "why"),
    [
        ("silent", False, 0, ""),
        ("", False, 0, ""),
        ("closed", False, 0, "the writer closed its connection"),
        ("closed", True, 0, ""),
        ("closed", False, 1, ""),
        ("listener", True, 0, "the listener was ended while the run was under way"),
        ("listener", True, 1, ""),
        ("refused", True, 0, "the listener stopped recording"),
    ],
)
def test_what_no_power_cut_ended_proves_nothing(
    ended: str, same_boot: bool, cut_us: int, why: str
) -> None:
    totals = Totals(intended=500, acked=400, in_flight=100, ended=ended, cut_us=cut_us)
    found = Result(7, make_plan(), totals, same_boot=same_boot)
    assert found.exit_code == (2 if why else 0)
    assert why in " ".join(found.all_doubts)


@pytest.mark.parametrize(
    ("note", "code", "word"),
    [
        ({"error": "EIO"}, 1, "FAILING"),
        ({"error": "EIO", "after_cut": True}, 0, "HONEST"),
        ({"error": "ENOSPC"}, 2, "not the disk's"),
        ({"error": "EMFILE", "operation": "open"}, 2, "not the disk's"),
    ],
)
def test_whose_fault_an_error_is(note: dict[str, Any], code: int, word: str) -> None:
    totals = Totals(intended=500, acked=400, in_flight=100, notes=[{"note": "failed", **note}])
    found = Result(7, make_plan(), totals)
    assert found.exit_code == code
    assert word in found.headline


def test_a_record_that_lost_its_end_accuses_nobody() -> None:
    totals = Totals(intended=500, acked=400, in_flight=100)
    found = Result(7, make_plan(), totals)
    found.add(Finding("unrecorded", 3, 12288, 5, 100, "write 5", "write 900"))
    assert found.exit_code == 2
    assert "the record has lost a part" in found.headline
    found.add(lost(0, 6, 100))
    assert found.exit_code == 1, "what it kept was promised"
    assert Result(7, make_plan(), Totals(acked=400, in_flight=9, damaged=True)).exit_code == 2
