"""The listener loses nothing that it answered, and its loss stops the writer."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from disk_checker.ledger import Ledger
from tests.support.disk_programs import CHECKER
from tests.support.disk_rig import Checker

pytestmark = pytest.mark.faults


def test_kill_9_of_the_listener_stops_the_writer_and_keeps_the_record(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with Checker(tmp_path) as checker:
        writing = checker.create(target, "4M", "--block-size", "4k", "--threads", "3")
        checker.wait_acked(writing, 300)
    code, said = writing.finish()
    assert code == 2, said
    assert "listener" in said
    assert "nothing more was written" in said
    with Checker(tmp_path) as checker:
        report = checker.verify(target)
    assert report["verdict"] == "honest", report
    assert report["totals"]["acked"] > 100


def test_many_clients_at_once(tmp_path: Path) -> None:
    with Checker(tmp_path) as checker:
        writers = [
            checker.create(tmp_path / f"target{n}", "1M", "--block-size", "4k") for n in range(3)
        ]
        assert len({writing.run for writing in writers}) == 3
        for writing in writers:
            checker.wait_acked(writing, 50)
            writing.kill()
            writing.finish()
        for n, writing in enumerate(writers):
            report = checker.verify(tmp_path / f"target{n}", "--min-acked", "1")
            assert report["run"] == writing.run
            assert report["faults"] == {}


def test_two_clients_with_one_file_and_a_run_under_way(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with Checker(tmp_path) as checker:
        writing = checker.create(target, "1M")
        code, said = checker.create(target, "1M").finish()
        assert code == 3
        assert "another disk-checker is writing to it" in said
        words = [CHECKER, "verify", checker.address, target]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 3
        assert "still connected" in done.stderr
        os.kill(writing.process.pid, signal.SIGTERM)
        code, said = writing.finish()
        assert code == 0, said
        report = checker.verify(target)
        assert report["verdict"] == "unknown"
        assert any("stopped before the power went" in doubt for doubt in report["doubts"])


def test_a_lost_record_is_told_and_a_second_listener_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with Checker(tmp_path) as checker:
        checker.create(target, "1M", "--seconds", "0.2").finish()
        words = [CHECKER, "listen", "--listen", "127.0.0.1:0", "--state", checker.state]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 3
        assert "another listener" in done.stderr
    (tmp_path / "elsewhere").mkdir()
    with Checker(tmp_path / "elsewhere") as checker:
        words = [CHECKER, "verify", checker.address, target]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 3
        assert "no record" in done.stderr


def test_a_journal_cut_anywhere_opens_with_all_that_was_whole(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with Checker(tmp_path) as checker:
        checker.create(target, "1M", "--block-size", "4k", "--seconds", "0.3").finish()
    journal = next((tmp_path / "state").glob("*.journal"))
    whole = journal.read_bytes()
    acked = []
    for cut in range(len(whole), 600, -max(1, len(whole) // 40)):
        journal.write_bytes(whole[:cut])
        ledger = Ledger(tmp_path / "state")
        try:
            if ledger.plans:
                fold = ledger.fold(max(ledger.plans))
                acked.append(fold.totals.acked)
                fold.close()
        finally:
            ledger.close()
    assert acked == sorted(acked, reverse=True)
    assert acked[0] > acked[-1]
