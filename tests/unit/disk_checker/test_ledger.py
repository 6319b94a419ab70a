"""The record: what was answered is there after any end; nobody confuses two runs."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from disk_checker import protocol
from disk_checker.errors import LedgerError, Refused
from disk_checker.ledger import Ledger
from disk_checker.protocol import Kind
from tests.support.memory_run import make_plan

pytestmark = pytest.mark.unit


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "state")


def test_the_last_acknowledged_write_of_each_block(ledger: Ledger) -> None:
    run, journal = ledger.open_run(make_plan())
    journal.append(protocol.encode_intents(1, [4, 5, 4, 6]))
    journal.append(protocol.encode_done([1, 10, 3, 30, 2, 20]))
    journal.append(protocol.encode_json(Kind.NOTE, {"note": "failed", "operation": "fsync"}))
    fold = ledger.fold(run)
    states = memoryview(fold.states(3, 4)).cast("Q").tolist()
    assert states == [0, 0, 3, 30, 2, 20, 0, 0]
    totals = fold.totals
    assert (totals.intended, totals.acked, totals.in_flight) == (4, 3, 1)
    assert (totals.end_block, totals.last_ack_us, totals.stopped) == (6, 30, False)
    assert totals.notes[0]["operation"] == "fsync"


def test_run_ids_grow_and_a_new_ledger_finds_the_newest(ledger: Ledger) -> None:
    runs = [ledger.open_run(make_plan())[0] for _ in range(50)]
    assert runs == sorted(set(runs))
    other = ledger.open_run(make_plan(target="/dev/other"))[0]
    ledger.close()
    again = Ledger(ledger.folder)
    assert again.find("m", "/dev/liar") == runs[-1]
    assert again.find("m", "/dev/other") == other
    with pytest.raises(Refused, match="no record of /dev/none"):
        again.find("m", "/dev/none")
    with pytest.raises(Refused, match="no record"):
        again.find("another host", "/dev/liar")


def test_garbage_at_the_end_is_set_aside_and_notes_may_follow(ledger: Ledger) -> None:
    run, journal = ledger.open_run(make_plan())
    journal.append(protocol.encode_intents(1, [0]) + protocol.encode_done([1, 1]))
    ledger.close()
    path = ledger.path(run)
    path.write_bytes(path.read_bytes() + protocol.encode_done([1, 2])[:-3])
    again = Ledger(ledger.folder)
    assert path.with_suffix(".tail").exists()
    assert again.fold(run).totals.acked == 1


def test_a_journal_that_contradicts_itself_is_an_error(ledger: Ledger) -> None:
    run, journal = ledger.open_run(make_plan())
    journal.append(protocol.encode_done([1, 1]))
    with pytest.raises(LedgerError, match="never intended"):
        ledger.fold(run)


def test_memory_is_bounded_by_what_is_in_flight_not_by_what_was_written(tmp_path: Path) -> None:
    """A target of 100 GB and 200,000 writes: the fold's own memory stays small."""
    ledger = Ledger(tmp_path)
    run, journal = ledger.open_run(make_plan(size=100 << 30, block_size=16384))
    blocks = (100 << 30) // 16384
    for first in range(1, 200_001, 5000):
        seqs = range(first, first + 5000)
        journal.append(
            protocol.encode_intents(first, [seq * 7919 % blocks for seq in seqs])
            + protocol.encode_done([number for seq in seqs for number in (seq, seq)])
        )
    tracemalloc.start()
    fold = ledger.fold(run)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert fold.totals.acked == 200_000
    assert peak < 8 << 20, peak


def test_two_listeners_do_not_share_a_folder(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="another listener"):
        Ledger(ledger.folder)
