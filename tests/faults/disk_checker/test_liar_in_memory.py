"""Each fault of a disk is found and named, every time; an honest disk is never accused."""

from __future__ import annotations

from pathlib import Path

import pytest

from disk_checker.ledger import Ledger
from disk_checker.statistics import cycles_for
from tests.support.liar_disk import Faults, LiarDisk
from tests.support.memory_run import cycle, make_plan

pytestmark = pytest.mark.faults

RUNS = 100
# A log that does not wrap before the cut: nothing overwrites, and so heals, a fault.
LOG = make_plan(workload="append", size=2 << 20, block_size=4096)


def _late(**faults: int) -> Faults:
    """A one-shot fault for the first block written at or behind the sixtieth."""
    return Faults(**faults, least=4096, area=range(60 * 4096, 1 << 40))


@pytest.mark.parametrize(
    ("faults", "cls", "also"),
    [
        (_late(drop=1), "lost", {"reordered"}),
        (_late(tear=1), "torn", {"reordered"}),
        (_late(misdirect=1), "misdirected", {"lost", "reordered"}),
        (_late(flip=1), "corrupted", {"reordered"}),
    ],
    ids=["dropped", "torn", "misdirected", "bit-flip"],
)
def test_one_faulty_write_is_named(
    tmp_path: Path, faults: Faults, cls: str, also: set[str]
) -> None:
    ledger = Ledger(tmp_path)
    try:
        for seed in range(RUNS):
            disk = LiarDisk(LOG.size, seed)
            disk.faults = Faults(**vars(faults))
            disk.off_after = 150 + seed
            result = cycle(tmp_path, disk, LOG, ledger=ledger)
            assert disk.faults.hit >= 0
            found = result.faults
            assert found.get(cls) == 1, f"seed {seed}: {found}"
            assert set(found) <= {cls} | also, f"seed {seed}: {found}"
            assert result.exit_code == 1
            assert result.checked + sum(result.counts.values()) <= LOG.blocks
            if cls != "misdirected":
                example = next(one for one in result.examples if one.cls == cls)
                assert example.block == disk.faults.hit // 4096
    finally:
        ledger.close()


def test_a_flush_that_lies_always_is_loss(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    try:
        for seed in range(RUNS):
            disk = LiarDisk(LOG.size, seed)
            disk.faults = Faults(flush_lies=1.0)
            plan = make_plan(workload="append", size=2 << 20, filled=False)
            disk.off_after = 150
            # Of a cache that was never flushed nothing survives: no later write to compare.
            disk.cut = lambda keep=0.0, disk=disk: LiarDisk.cut(disk, 0.0)  # type: ignore[method-assign]
            result = cycle(tmp_path, disk, plan, ledger=ledger)
            assert set(result.faults) == {"lost"}, f"seed {seed}: {result.faults}"
            assert result.faults["lost"] == result.totals.acked
            assert result.verdict == "lying"
    finally:
        ledger.close()


def test_a_random_half_of_a_lying_cache_is_reordering(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    try:
        for seed in range(RUNS):
            disk = LiarDisk(LOG.size, seed)
            disk.faults = Faults(flush_lies=1.0)
            disk.off_after = 150
            plan = make_plan(workload="append", size=2 << 20, block_size=512)
            result = cycle(tmp_path, disk, plan, ledger=ledger)
            found = result.faults
            assert found["lost"] > 20, f"seed {seed}: {found}"
            assert set(found) == {"lost", "reordered"}, f"seed {seed}: {found}"
    finally:
        ledger.close()


def test_an_error_of_a_flush_is_named_and_its_write_not_counted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    try:
        for seed in range(RUNS):
            disk = LiarDisk(LOG.size, seed)
            disk.off_after = 200
            flush = disk.flush

            def fail_once(disk: LiarDisk = disk, flush=flush) -> None:  # type: ignore[no-untyped-def]
                if disk.flushes == 50:
                    disk.faults.flush_error = 1
                flush()

            disk.flush = fail_once  # type: ignore[method-assign]
            result = cycle(tmp_path, disk, LOG, ledger=ledger, go_on=True)
            assert result.faults == {"sync_error": 1}, f"seed {seed}: {result.faults}"
            assert result.verdict == "failing"
            # The trap: the second sync said ok, and the write is not there.
            note = result.sync_errors[0]
            assert note["second_sync"] == "ok"
            at = note["block"] * 4096
            assert not any(disk.stable[at : at + 4096])
    finally:
        ledger.close()


def test_a_sometimes_liar_is_found_within_the_cycles_that_statistics_demand(
    tmp_path: Path,
) -> None:
    """A flush that lies one time in three loses the last write in one cut of three."""
    ledger = Ledger(tmp_path)
    cycles = cycles_for(1 / 3, confidence=0.9999)
    assert cycles < 25
    try:
        for disk_seed in range(10):
            verdicts = set()
            for number in range(cycles):
                disk = LiarDisk(LOG.size, disk_seed * 1000 + number)
                disk.faults = Faults(flush_lies=1 / 3)
                disk.off_after = 120
                disk.cut = lambda keep=0.0, disk=disk: LiarDisk.cut(disk, 0.0)  # type: ignore[method-assign]
                verdicts.add(cycle(tmp_path, disk, LOG, ledger=ledger).verdict)
            assert "lying" in verdicts
    finally:
        ledger.close()


@pytest.mark.parametrize("workload", ["overwrite", "append", "innodb"])
@pytest.mark.parametrize("threads", [1, 3])
def test_an_honest_disk_is_never_accused(tmp_path: Path, workload: str, threads: int) -> None:
    """Also one that keeps a random half of what was not flushed."""
    ledger = Ledger(tmp_path)
    try:
        for seed in range(RUNS):
            disk = LiarDisk(1 << 20, seed)
            disk.off_after = 120 + seed
            plan = make_plan(workload=workload, threads=threads, depth=1 + seed % 5)
            result = cycle(tmp_path, disk, plan, ledger=ledger, read_back=20)
            assert result.faults == {}, f"seed {seed}: {result.examples}"
            assert result.totals.acked > 50
            assert result.totals.in_flight > 0
    finally:
        ledger.close()


def test_reading_back_finds_a_dropped_write_before_any_cut(tmp_path: Path) -> None:
    disk = LiarDisk(2 << 20, 3)
    disk.off_after = 300
    disk.faults = Faults(drop=20, least=4096)
    result = cycle(tmp_path, disk, LOG, read_back=1)
    assert result.read_back["lost"] > 0
    assert result.exit_code == 1


@pytest.mark.parametrize("sync", ["none", "sync_file_range"])
def test_a_method_that_promises_nothing_is_never_called_honest(tmp_path: Path, sync: str) -> None:
    disk = LiarDisk(1 << 20, 1)
    disk.off_after = 200
    kept = cycle(tmp_path / "kept", disk, make_plan(sync=sync))
    assert kept.verdict == "unknown"
    assert kept.exit_code == 2
    disk = LiarDisk(1 << 20, 1)
    disk.off_after = 200
    disk.flush = lambda: None  # type: ignore[method-assign]
    lost = cycle(tmp_path / "lost", disk, make_plan(sync=sync))
    assert lost.verdict == "not-durable"
    assert lost.exit_code == 1
