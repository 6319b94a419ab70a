"""`disk-checker run`: whole cycles, with the rig's switch as the power command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.disk_programs import CHECKER
from tests.support.disk_rig import Rig
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
    assert "ended with 7: no such outlet" in done.stderr


def test_a_switchboard_that_fails_says_why(tmp_path: Path) -> None:
    """Else a rig that broke would leave the command waiting, and the test with it."""

    class Broken(Rig):
        def restart(self, mode: str = "writeback") -> str:
            raise RuntimeError(f"no {mode} today")

    with switchboard(Broken(tmp_path), tmp_path, "unsafe") as (_, on):
        done = subprocess.run(["/bin/sh", "-c", on], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no unsafe today" in done.stderr
