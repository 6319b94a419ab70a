"""`disk-checker run`: whole cycles, with the rig's switch as the power command."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.disk_rig import CHECKER, Rig, acked
from tests.support.process import wait_for

pytestmark = pytest.mark.faults


ENOUGH = 200


@contextmanager
def switchboard(rig: Rig, folder: Path, mode: str) -> Iterator[tuple[str, str]]:
    """Shell commands that cut the rig's power and give it back.

    The rig belongs to this process, so each command asks it, by a file that holds the run, and
    waits for the answer: an empty file, or the words of what went wrong, with which it fails.
    The cut waits until a cycle can prove something, however slow the machine is today.
    """
    ended = threading.Event()

    def off(run: str) -> None:
        wait_for(
            lambda: acked(folder / "state", run) >= ENOUGH,
            f"{ENOUGH} acknowledged writes",
            timeout_s=60,
            every_s=0.05,
        )
        rig.cut()

    def on(_run: str) -> None:
        rig.restart(mode)
        rig.mount()

    switches: dict[str, Callable[[str], None]] = {"off": off, "on": on}

    def serve() -> None:
        while not ended.wait(0.02):
            for name, switch in switches.items():
                asked = folder / f"{name}.asked"
                if asked.exists():
                    run, said = asked.read_text().strip(), ""
                    asked.unlink()
                    try:
                        switch(run)
                    except Exception as error:
                        said = f"{name}: {error!r}"
                    new = folder / f"{name}.new"
                    new.write_text(said)
                    new.rename(folder / f"{name}.answered")

    def command(name: str) -> str:
        ask, answer = folder / f"{name}.ask", folder / f"{name}.answered"
        return (
            f'echo "$RUN" > {ask}; mv {ask} {ask}ed; while [ ! -e {answer} ]; do sleep 0.02; done; '
            f'said=$(cat {answer}); rm {answer}; [ -z "$said" ] || {{ echo "$said" >&2; exit 1; }}'
        )

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield command("off"), command("on")
    finally:
        ended.set()
        thread.join()


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
