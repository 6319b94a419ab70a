"""The listener loses nothing that it answered, and its loss stops the writer."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from disk_checker import protocol
from disk_checker.ledger import Ledger
from disk_checker.listener import HUSH_S
from disk_checker.protocol import Frame, FrameReader, Kind
from tests.support.disk_programs import CHECKER
from tests.support.disk_rig import Checker, command

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
    assert report["faults"] == {}, report
    assert report["totals"]["acked"] > 100
    assert report["verdict"] == "unknown", "the writer stopped with it: nothing was in flight"
    assert "the listener was ended while the run was under way" in report["headline"]


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


def test_a_writer_that_was_killed_is_no_power_cut(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with Checker(tmp_path) as checker:
        writing = checker.create(target, "1M", "--block-size", "4k")
        checker.wait_acked(writing, 150)
        writing.kill()
        writing.finish()
        assert checker.verify(target)["verdict"] == "honest", "who says --same-boot cut the disk"
        words = [CHECKER, "verify", checker.address, target]
        done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "the writer closed its connection, which no power cut does" in " ".join(
        done.stdout.split()
    )


def test_a_connection_that_breaks_after_a_silence_is_a_power_cuts(tmp_path: Path) -> None:
    """As a host's that boots within seconds, or a tunnel's: its kernel resets what it finds."""
    target = tmp_path / "target"
    with Checker(tmp_path) as checker:
        writing = checker.create(target, "1M", "--block-size", "4k")
        checker.wait_acked(writing, 120)
        writing.freeze()
        time.sleep(HUSH_S + 0.5)
        writing.kill()
        writing.finish()
        report = checker.verify(target)
    assert report["totals"]["ended"] == "silent"
    assert report["verdict"] == "honest", report


def test_a_wrong_run_accuses_no_file(tmp_path: Path) -> None:
    with Checker(tmp_path) as checker:
        runs = {}
        for name in ("one", "other"):
            writing = checker.create(tmp_path / name, "1M", "--block-size", "4k")
            checker.wait_acked(writing, 120)
            writing.kill()
            writing.finish()
            runs[name] = writing.run
        (tmp_path / "link").symlink_to("one")
        assert checker.verify(tmp_path / "link")["run"] == runs["one"]
        for file, run in (("one", "other"), ("other", "one"), ("none", "one")):
            words = [CHECKER, "verify", checker.address, tmp_path / file, "--same-boot"]
            done = subprocess.run(
                [*words, "--run", runs[run]], capture_output=True, text=True, check=False
            )
            assert done.returncode == 3, done.stdout + done.stderr
            assert f"{tmp_path / run} of" in done.stderr
        # The same content under another name is the run's all the same.
        (tmp_path / "one").rename(tmp_path / "moved")
        report = checker.verify(tmp_path / "moved", "--run", runs["one"])
        assert report["verdict"] == "honest", report
        # A name that is not there any more is the file's loss only where it was.
        report = checker.verify(tmp_path / "one")
        assert "missing" in report["faults"]


def test_a_damaged_record_accuses_no_disk(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with Checker(tmp_path) as checker:
        writing = checker.create(target, "1M", "--block-size", "4k")
        checker.wait_acked(writing, 300)
        writing.kill()
        writing.finish()
    journal = next((tmp_path / "state").glob("*.journal"))
    whole = journal.read_bytes()
    for data in (
        whole[: len(whole) // 2]
        + bytes([whole[len(whole) // 2] ^ 1])
        + whole[len(whole) // 2 + 1 :],
        whole[: len(whole) // 4],
    ):
        journal.write_bytes(data)
        with Checker(tmp_path) as checker:
            report = checker.verify(target, "--min-acked", "1")
        assert report["faults"] == {}, report
        assert report["verdict"] == "unknown"
        assert any("the record has lost a part" in doubt for doubt in report["doubts"]), report


@contextmanager
def small_disk(point: Path, size: str) -> Iterator[Path]:
    """A file system that is soon full."""
    point.mkdir()
    command("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", point)
    try:
        yield point
    finally:
        command("umount", point)


def fill(folder: Path) -> Path:
    """Take all the room that is left."""
    path = folder / "filling"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def test_a_listener_without_room_acknowledges_nothing_and_serves_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state", "2M") as small, Checker(tmp_path) as checker:
        target = tmp_path / "target"
        writing = checker.create(target, "1M", "--block-size", "4k")
        checker.wait_acked(writing, 120)
        filling = fill(small)
        code, said = writing.finish()
        assert code == 3, said
        assert "No space left on device): make room there" in said
        journal = next(checker.state.glob("*.journal"))
        assert len(protocol_frames(journal)) > 10
        # Neither a new run nor a verification; once the kernel killed the listener for one.
        words = [CHECKER, "verify", checker.address, target, "--same-boot", "--json"]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "make room there" in json.loads(done.stdout)["error"]
        code, said = checker.create(tmp_path / "new", "1M").finish()
        assert code == 3
        assert "make room there" in said
        assert not (tmp_path / "new").exists()
        filling.unlink()
        report = checker.verify(target)
    assert report["faults"] == {}, report
    assert report["totals"]["acked"] >= 120
    assert "the listener stopped recording the run" in report["headline"]


def protocol_frames(journal: Path) -> list[Frame]:
    """All frames of a journal, of which none may be damaged or cut."""
    frames, data = FrameReader(), journal.read_bytes()
    found = list(frames.feed(data))
    assert frames.consumed == len(data)
    return found


@pytest.mark.parametrize("workload", ["overwrite", "innodb", "rename"])
def test_a_full_file_system_is_not_the_disks_fault(tmp_path: Path, workload: str) -> None:
    """A file with holes has no room of its own: what others take is missing while it writes."""
    image, point = tmp_path / "image", tmp_path / "point"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    command("mkfs.ext4", "-q", "-F", "-m", "0", image)
    point.mkdir()
    command("mount", "-o", "loop", image, point)
    try:
        with Checker(tmp_path) as checker:
            target = point / "target"
            writing = checker.create(target, "8M", "--workload", workload)
            checker.wait_acked(writing, 5)
            fill(point)
            code, said = writing.finish()
            assert code == 3, said
            assert "ENOSPC" in said
            assert "not the disk's" in said
            report = checker.verify(target)
    finally:
        command("umount", point)
    assert report["faults"] == {}, report
    assert any("not the disk's" in doubt for doubt in report["doubts"]), report


def test_garbage_disturbs_nobody(tmp_path: Path) -> None:
    with Checker(tmp_path) as checker:
        writing = checker.create(tmp_path / "target", "1M", "--block-size", "4k")
        host, _, port = checker.address.rpartition(":")
        for garbage in (
            b"GET / HTTP/1.1\r\n\r\n",
            bytes(range(256)) * 300,
            protocol.encode_intents(1, [0]),
            protocol.encode_json(Kind.ASK, {"run": -1}),
            protocol.encode_json(Kind.ASK, {"run": 1 << 80, "machine": []}),
            protocol.encode_json(Kind.OPEN, {"version": 1, "size": "big"}),
            protocol.encode(Kind.OPEN, b"[" * 100_000),
            protocol.encode_range(0, 1 << 60),
        ):
            with socket.create_connection((host, int(port))) as line:
                line.sendall(garbage)
                line.settimeout(20)
                answer = b""
                while data := line.recv(1 << 16):
                    answer += data
            assert next(iter(FrameReader().feed(answer))).kind is Kind.REFUSED
        # One who never reads is waited for by nobody.
        slow = socket.create_connection((host, int(port)))
        slow.sendall(protocol.encode_json(Kind.ASK, {"run": int(writing.run, 16)}))
        slow.sendall(protocol.encode_range(0, 256) * 20_000)
        before = checker.acked(writing.run)
        checker.wait_acked(writing, before + 100)
        assert writing.process.poll() is None
        slow.close()
        os.kill(writing.process.pid, signal.SIGINT)
        code, said = writing.finish()
        assert (code, "stopped;" in said) == (0, True), said


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
