"""`disk-checker run`: whole cycles, with the rig's switch as the power command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from disk_checker.claim import claim
from disk_checker.ledger import Ledger
from disk_checker.victim import Switch
from lj_services.cli.disks import command as disks
from tests.support.disk_programs import CHECKER
from tests.support.disk_rig import Checker, Rig
from tests.support.liar_disk import LiarDisk
from tests.support.process import wait_for
from tests.support.switchboard import switchboard

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(("mode", "code", "cycles"), [("writeback", 0, 2), ("unsafe", 1, 1)])
def test_cycles_from_the_desk(tmp_path: Path, mode: str, code: int, cycles: int) -> None:
    with Rig(tmp_path, 48 << 20) as rig:
        rig.power_on()
        rig.make_fs("ext4")
        # A file that exists before: then what a liar loses are blocks, not the file.
        target = rig.mount() / "target"
        target.write_bytes(bytes(4 << 20))
        rig.unmount()
        rig.restart(mode)
        rig.mount()
        with switchboard(rig, tmp_path, mode) as (off, on):
            done = subprocess.run(
                [
                    *(CHECKER, "run", target, "4M", "--state", tmp_path / "state"),
                    *("--power-off", off, "--power-on", on, "--cycles", "2"),
                    *("--write-seconds", "0.3", "--same-boot", "--block-size", "4k", "--json"),
                ],
                capture_output=True,
                text=True,
                timeout=300,
            )
    assert done.returncode == code, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["cycles"] == cycles, "a liar is caught in the first, and it stops there"
    if code == 0:
        assert outcome["headline"].startswith(
            "2 of 2 cycles clean: loss probability per cut under 3/2 at 95 %"
        )
        assert len(list((tmp_path / "state").glob("*.report.json"))) == 2
    else:
        assert outcome["reports"][0]["faults"]["lost"]["count"] > 10


def test_a_switch_that_fails_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(CHECKER, "run", tmp_path / "target", "1M", "--state", tmp_path / "state"),
            *("--power-off", "echo no such outlet >&2; exit 7", "--write-seconds", "0.3"),
            "--same-boot",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "power was not cut" in done.stderr
    assert "ended with 7: no such outlet" in done.stderr
    # Whoever asks later is not told that all survived a cut.
    with Checker(tmp_path) as checker:
        report = checker.verify(tmp_path / "target", "--min-acked", "1")
    assert report["verdict"] == "unknown"
    assert "stopped before the power went" in report["headline"]


def test_a_power_that_does_not_come_back_is_told_with_the_reports_so_far(tmp_path: Path) -> None:
    twice = f"[ ! -e {tmp_path}/once ] || {{ echo the controller sleeps >&2; exit 1; }}"
    done = subprocess.run(
        [
            *(CHECKER, "run", tmp_path / "target", "1M", "--state", tmp_path / "state"),
            *("--power-off", "true", "--power-on", f"{twice}; touch {tmp_path}/once"),
            *("--same-boot", "--write-seconds", "1", "--cycles", "3", "--json"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    outcome = json.loads(done.stdout)
    assert done.returncode == outcome["exit_code"] == 2, done.stdout + done.stderr
    assert len(outcome["reports"]) == 1
    # The listener keeps it too, and the kit's command reads it there.
    listed = CliRunner().invoke(disks, ["reports", str(tmp_path / "state"), "--json"])
    assert [row["run"] for row in json.loads(listed.output)] == [outcome["reports"][0]["run"]]
    assert "The power did not come back" in outcome["error"]
    assert "the controller sleeps" in done.stderr


def test_a_disk_that_fails_before_the_cut_has_its_verdict(tmp_path: Path) -> None:
    liar = LiarDisk(16 << 20, 1)
    with Rig(tmp_path, liar=liar) as rig:
        device = rig.power_on()
        break_later(liar)
        done = subprocess.run(
            [
                *(CHECKER, "run", device, "8M", "--state", tmp_path / "state", "--same-boot"),
                *("--power-off", f"touch {tmp_path}/pulled", "--write-seconds", "60", "--json"),
                *("--block-size", "4k"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads(done.stdout)["verdict"] == "failing"
    assert not (tmp_path / "pulled").exists()


def break_later(liar: LiarDisk) -> None:
    """The hundredth flush fails."""
    flush = liar.flush

    def failing() -> None:
        if liar.flushes == 100:
            liar.faults.flush_error = 1
        flush()

    liar.flush = failing  # type: ignore[method-assign]


LJ = CHECKER.with_name("lj")


@pytest.mark.parametrize(
    ("words", "number", "code"),
    [
        ([CHECKER, "run"], signal.SIGINT, 2),
        ([CHECKER, "run"], signal.SIGTERM, 2),
        ([LJ, "disks", "check"], signal.SIGINT, 1),
        ([LJ, "disks", "check"], signal.SIGTERM, 1),
    ],
    ids=["interrupted", "terminated", "lj, interrupted", "lj, terminated"],
)
def test_who_interrupts_between_off_and_on_is_told_of_the_power(
    tmp_path: Path, words: list[Path | str], number: signal.Signals, code: int
) -> None:
    desk = subprocess.Popen(
        [
            # Whoever runs the tests in the background has interrupts ignored.
            *("env", "--default-signal=INT"),
            *(*words, tmp_path / "target", "1M", "--state", tmp_path / "state"),
            *("--power-off", f"touch {tmp_path}/off; sleep 60", "--power-on", "echo on"),
            *("--same-boot", "--write-seconds", "0.3"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for((tmp_path / "off").exists, "the switch", timeout_s=60)
    # A terminal interrupts all who stand before it.
    (os.killpg if number == signal.SIGINT else os.kill)(desk.pid, number)
    _, errors = desk.communicate(timeout=60)
    assert desk.returncode == code, errors
    assert "Interrupted, and the power of localhost may be off: give it back: echo on" in errors
    # Neither the listener nor the writer is left.
    Ledger(tmp_path / "state").close()
    claim(tmp_path / "target", size=1 << 20, block_size=4096).close()


def test_a_switch_may_leave_something_running(tmp_path: Path) -> None:
    """A virtual machine that it started, say: once that held the desk up for ever."""
    switch = Switch(f"sleep 300 & echo $! > {tmp_path}/left")
    switch.throw(switch.off, {})
    os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)


def test_a_switchboard_that_fails_says_why(tmp_path: Path) -> None:
    """Else a rig that broke would leave the command waiting, and the test with it."""

    class Broken(Rig):
        def restart(self, mode: str = "writeback") -> str:
            raise RuntimeError(f"no {mode} today")

    with switchboard(Broken(tmp_path), tmp_path, "unsafe") as (_, on):
        done = subprocess.run(["/bin/sh", "-c", on], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no unsafe today" in done.stderr
