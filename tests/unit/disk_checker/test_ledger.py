"""The record: what was answered is there after any end; nobody confuses two runs."""

from __future__ import annotations

import errno
import itertools
import tracemalloc
from pathlib import Path

import pytest

from disk_checker import fold, protocol
from disk_checker import ledger as ledger_module
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
    totals = again.fold(run).totals
    assert totals.acked == 1
    assert not totals.damaged, "that was never answered"


def test_what_was_answered_and_is_unreadable_now_is_told(ledger: Ledger) -> None:
    """Else blocks that the record forgot would look as if the disk had made them up."""
    run, journal = ledger.open_run(make_plan())
    sizes = []
    for seq in (1, 2, 3):
        sizes.append(ledger.path(run).stat().st_size)
        journal.append(protocol.encode_intents(seq, [seq]) + protocol.encode_done([seq, seq]))
    whole = ledger.path(run).read_bytes()
    at = sizes[1] + 40
    ledger.path(run).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert ledger.fold(run).totals.damaged, "while the listener runs"
    ledger.close()
    again = Ledger(ledger.folder)
    for opened in (again, again):
        totals = opened.fold(run).totals
        assert (totals.acked, totals.damaged) == (1, True)
    again.close()
    assert Ledger(ledger.folder).fold(run).totals.damaged, "and ever after"


@pytest.mark.parametrize(
    ("note", "ended"),
    [
        (None, "listener"),
        ({"note": "failed"}, "listener"),
        ({"note": "stopped"}, ""),
        ({"note": "cut"}, ""),
        ({"note": "ended", "how": "silent"}, "silent"),
    ],
)
def test_a_run_whose_end_nobody_saw_ended_with_its_listener(
    ledger: Ledger, note: dict[str, str] | None, ended: str
) -> None:
    run, journal = ledger.open_run(make_plan())
    journal.append(protocol.encode_intents(1, [0]))
    if note is not None:
        journal.append(protocol.encode_json(Kind.NOTE, note))
    ledger.close()
    for _ in range(2):
        again = Ledger(ledger.folder)
        assert again.fold(run).totals.ended == ended
        again.close()


def test_what_comes_after_the_cut_does_so_whatever_the_clock_says(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(2_000_000_000_000_000_000, -60_000_000_000)
    monkeypatch.setattr(ledger_module.time, "time_ns", lambda: next(clock))
    run, journal = ledger.open_run(make_plan())
    for note in ({"note": "failed", "error": "EIO"}, {"note": "cut"}, {"note": "failed"}):
        journal.append(protocol.encode_json(Kind.NOTE, note))
    notes = ledger.fold(run).totals.notes
    assert ["after_cut" in note for note in notes] == [False, True]


def test_a_run_is_later_than_what_its_target_holds(ledger: Ledger) -> None:
    """Of a listener whose clock was right, while this one's is not."""
    later = (1 << 63) + 5
    assert ledger.open_run(make_plan(prior_run=later))[0] == later + 1


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_not_on_disk_is_not_in_the_journal(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, journal = ledger.open_run(make_plan())
    before = ledger.path(run).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module.os, "fdatasync", full)
        with pytest.raises(LedgerError, match=r"No space left on device.*make room"):
            journal.append(protocol.encode_intents(1, [0]))
    assert ledger.path(run).read_bytes() == before
    journal.append(protocol.encode_intents(1, [1]))
    assert ledger.fold(run).totals.intended == 1


def test_without_room_for_the_states_nothing_is_touched(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, journal = ledger.open_run(make_plan())
    journal.append(protocol.encode_intents(1, [0]) + protocol.encode_done([1, 1]))
    monkeypatch.setattr(fold.os, "posix_fallocate", full)
    with pytest.raises(LedgerError, match="make room"):
        ledger.fold(run)


def test_a_journal_of_another_version_is_named_and_others_are_left_alone(ledger: Ledger) -> None:
    (ledger.folder / "notes.journal").write_text("mine")
    ledger.close()
    Ledger(ledger.folder).close()
    odd = ledger.folder / f"{1:016x}.journal"
    odd.write_bytes(protocol.encode_json(Kind.OPEN, {"machine": "m"}))
    with pytest.raises(LedgerError, match=rf"{odd.name}: not a journal of this version.*--state"):
        Ledger(ledger.folder)
    assert odd.stat().st_size


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
