"""The original, diskchecker.pl, beside ours: on one file system of one disk, through one cut.

    python -m tests.support.disk_peers ORIGINAL

ORIGINAL is that program, which no package has.  Prints a table, and ends with 1 if it found
something that ours did not.  Needs what the rig needs, and perl.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.disk_cycles import MEMORY, Report
from tests.support.disk_rig import Checker, Rig
from tests.support.liar_disk import LiarDisk
from tests.support.process import accepts, free_port, wait_for

SIZE_MB = 16
STATE = Path("/tmp/127.0.0.1.diskchecker")
_MANY = 40


@dataclass(frozen=True)
class Case:
    """A disk, and what it does to the files of both.

    :param mode: nbdkit's cache mode; empty: our liar, whose ``faults`` begin under way.
    :param exists: the files were there before.
    """

    name: str
    mode: str = ""
    options: str = ""
    exists: bool = True
    faults: dict[str, int] = field(default_factory=dict)


CASES = [
    Case("honest disk", "writeback"),
    Case("flushes ignored, file existed before", "unsafe"),
    Case("flushes ignored, new file", "unsafe", exists=False),
    Case("honest disk, `nobarrier`", "writeback", "nobarrier"),
    Case("writes dropped", faults={"drop": _MANY}),
    Case("writes torn", faults={"tear": _MANY}),
    Case("writes misdirected", faults={"misdirect": _MANY}),
    Case("bits flipped", faults={"flip": _MANY}),
    Case("one flush fails", faults={"flush_error": 1}),
]


class Original:
    """The original's two sides.

    :param program: where it is.
    """

    def __init__(self, program: Path) -> None:
        self._program = program
        self._port = free_port()
        self._writing: subprocess.Popen[bytes] | None = None
        STATE.unlink(missing_ok=True)
        self._listener = self._start("-l", str(self._port))
        wait_for(lambda: accepts(self._port), "the original's listener", timeout_s=60)
        # What tried the port was a client to it, of which it knows nothing.
        wait_for(STATE.exists, "its record of that")
        STATE.unlink()

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["perl", self._program, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def create(self, target: Path) -> None:
        """Write until the cut."""
        server = f"127.0.0.1:{self._port}"
        self._writing = self._start("-s", server, "create", str(target), str(SIZE_MB))

    def freeze(self) -> None:
        """Before the cut, as ours is."""
        assert self._writing is not None
        os.kill(self._writing.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """After it; returns when its listener has written its record."""
        assert self._writing is not None
        self._writing.kill()
        self._writing.wait()
        wait_for(STATE.exists, "the original's record", timeout_s=60)
        previous = -1
        while (size := STATE.stat().st_size) != previous:
            previous = size
            time.sleep(0.2)

    def verify(self, target: Path) -> tuple[str, bool]:
        """What it says, and whether that is that something is lost."""
        words = ["perl", self._program, "-s", f"127.0.0.1:{self._port}", "verify", target]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        if done.returncode:
            return f'"{done.stderr.partition(" /")[0].strip()}"', True
        total = done.stdout.partition("Total errors: ")[2].split()[0]
        return f"`Total errors: {total}`, exit code 0", total != "0"

    def close(self) -> None:
        """End both sides."""
        for process in (self._writing, self._listener):
            if process is not None:
                process.kill()
                process.wait()
        STATE.unlink(missing_ok=True)


@contextmanager
def _original(program: Path) -> Iterator[Original]:
    original = Original(program)
    try:
        yield original
    finally:
        original.close()


def compare(case: Case, program: Path, folder: Path) -> tuple[Report, str, bool]:
    """Both through one cut: our report, what the original says, whether it found something."""
    liar = None if case.mode else LiarDisk(96 << 20, 1)
    with (
        Rig(folder, 96 << 20, liar) as rig,
        Checker(folder) as checker,
        _original(program) as original,
    ):
        rig.power_on()
        rig.make_fs("ext4")
        ours, its = rig.mount() / "ours", rig.mount_point / "its"
        if case.exists:
            for target in (ours, its):
                target.write_bytes(bytes(SIZE_MB << 20))
        rig.unmount()
        if case.mode == "unsafe":
            rig.restart(case.mode)
        rig.mount(case.options)
        original.create(its)
        writing = checker.create(ours, f"{SIZE_MB}M")
        checker.wait_acked(writing, 200)
        if liar is not None:
            liar.faults.least = 16 << 10
            for name, value in case.faults.items():
                setattr(liar.faults, name, value)
            checker.wait_acked(writing, checker.acked(writing.run) + 300)
        original.freeze()
        writing.freeze()
        rig.cut()
        writing.kill()
        writing.finish()
        original.kill()
        report = checker.verify(ours, "--device", rig.restart())
        said, found = original.verify(its)
        return report, said, found


def main(words: Sequence[str]) -> int:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="disk_peers", description=__doc__)
    parser.add_argument("original", type=Path, help="diskchecker.pl")
    parser.add_argument("--only", help="the cases whose name has this in it", default="")
    asked = parser.parse_args(words)
    print("| | disk-checker | diskchecker.pl |\n|---|---|---|", flush=True)
    missed = 0
    for case in CASES:
        if asked.only not in case.name:
            continue
        with tempfile.TemporaryDirectory(prefix="disk-peers-", dir=MEMORY) as name:
            report, said, found = compare(case, asked.original, Path(name))
        faults = ", ".join(
            f"{fault['count']} {cls.replace('_', ' ')}" for cls, fault in report["faults"].items()
        )
        ours = report["verdict"] + (f": {faults}" if faults else "")
        print(f"| {case.name} | {ours} | {said} |", flush=True)
        missed += found and report["exit_code"] != 1
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
