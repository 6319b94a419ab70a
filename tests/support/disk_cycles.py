"""Cycles of writing, cut and verification through the kernel, of each kind of disk.

    python -m tests.support.disk_cycles [--cycles 100] [--jobs 2] [KIND ...]

runs so many of each kind, kinds side by side on disks of their own, and prints a table; it
ends with 1 if a verdict was wrong, and keeps that report.  Needs what the rig needs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disk_checker.errors import UNKNOWN
from disk_checker.target import sync_folder
from tests.support.disk_programs import Forked
from tests.support.disk_rig import Checker, Rig, command
from tests.support.liar_disk import LiarDisk
from tests.support.process import wait_for

Report = dict[str, Any]

BLOCK = 4096
TARGET_SIZE = 16 << 20
MEMORY = Path("/dev/shm")


def pull(
    rig: Rig,
    checker: Checker,
    target: Path | str,
    *words: str,
    size: str = "16M",
    acked: int = 200,
    keep: float = 0.0,
) -> Report:
    """Write for some time, cut the disk, bring it back, verify."""
    writing = checker.create(target, size, *words)
    checker.wait_acked(writing, acked)
    writing.freeze()
    rig.cut(keep)
    writing.kill()
    writing.finish()
    device = rig.restart()
    if isinstance(target, str):
        return checker.verify(device, "--run", writing.run)
    return checker.verify(target, "--device", device)


def image_size(fs: str) -> int:
    """Bytes of a disk that such a file system and 16 MiB of target fit on."""
    return (310 if fs == "xfs" else 48) << 20


def prepared(rig: Rig, fs: str) -> Path:
    """A target on an honest disk, all of whose blocks exist: what is lost then is not the file."""
    rig.power_on()
    rig.make_fs(fs)
    target = rig.mount() / "target"
    with target.open("wb") as file:
        file.write(bytes(TARGET_SIZE))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(target.parent)
    rig.unmount()
    rig.mount()
    return target


@dataclass(frozen=True)
class Cached:
    """nbdkit's cache under a file system.

    :param mode: its cache mode: writeback (honest), unsafe (lies).
    :param words: of `create`.
    """

    fs: str
    mode: str
    verdict: str
    options: str = ""
    words: Sequence[str] = ()

    def cycle(self, folder: Path, checker: Checker) -> Report:
        """One cycle on a disk of its own."""
        with Rig(folder, image_size(self.fs)) as rig:
            target = self._target(rig)
            return pull(rig, checker, target, *self.words)

    def _target(self, rig: Rig) -> Path | str:
        """As `prepared`, which is done once for a folder's neighbours: they begin with a copy."""
        if self.fs == "raw":
            return rig.power_on(self.mode)
        model = rig.folder.parent / f"{self.fs}.img"
        if not model.exists():
            with (
                tempfile.TemporaryDirectory(dir=rig.folder) as name,
                Rig(Path(name), image_size(self.fs)) as first,
            ):
                prepared(first, self.fs)
                first.unmount()
                first.take_down()
                command("cp", first.image, model)  # holes stay holes
        command("cp", model, rig.image)
        rig.power_on(self.mode)
        target = rig.mount(self.options) / "target"
        assert target.stat().st_size == TARGET_SIZE, "the copied disk lacks its target"
        return target

    def right(self, report: Report) -> bool:
        """Whether the verdict is what this disk deserves."""
        lost = report["faults"].get("lost", {"count": 0})["count"]
        honest = self.verdict == "honest"
        return report["verdict"] == self.verdict and (not report["faults"] if honest else lost > 10)


@dataclass(frozen=True)
class Lying:
    """Our liar, raw, whose faults begin while it is written to.

    :param cls: the class that the report must name; None: an honest disk.
    :param keep: the share of its cache that survives the cut.
    """

    cls: str | None
    faults: dict[str, float] = field(default_factory=dict)
    keep: float = 0.0

    def cycle(self, folder: Path, checker: Checker) -> Report:
        """One cycle on a disk of its own."""
        liar = LiarDisk(64 << 20, time.monotonic_ns())
        with Rig(folder, liar=liar) as rig:
            writing = checker.create(
                rig.power_on(), "64M", "--workload", "append", "--block-size", "4k",
                "--read-back", "0", *([] if "flush_error" in self.faults else ["--direct"]),
            )  # fmt: skip
            checker.wait_acked(writing, 100)
            liar.faults.least = BLOCK
            for name, value in self.faults.items():
                setattr(liar.faults, name, value)  # switched while it runs
            wanted = checker.acked(writing.run) + 150
            if self.faults.keys() & ONE_WRITE:
                # The log's n-th write goes to its n-th block; what was not synced is no fault.
                wait_for(lambda: liar.faults.hit >= 0, "the fault to strike", timeout_s=60)
                wanted = max(wanted, liar.faults.hit // BLOCK + 50)
            checker.wait_acked(writing, wanted)
            writing.freeze()
            rig.cut(self.keep)
            writing.kill()
            writing.finish()
            return checker.verify(rig.restart(), "--run", writing.run)

    def right(self, report: Report) -> bool:
        """Whether the verdict is what this disk deserves."""
        if self.cls is None:
            return report["verdict"] == "honest" and not report["faults"]
        return report["exit_code"] == 1 and self.cls in report["faults"]


LIES = {"flush_lies": 1.0}
ONE_WRITE = {"drop", "tear", "misdirect", "flip"}

KINDS: dict[str, Cached | Lying] = {
    **{f"honest cache, {fs}": Cached(fs, "writeback", "honest") for fs in ("ext4", "xfs", "raw")},
    **{f"ignores flushes, {fs}": Cached(fs, "unsafe", "lying") for fs in ("ext4", "xfs", "raw")},
    "nobarrier": Cached("ext4", "writeback", "lying", options="nobarrier"),
    "no sync": Cached("ext4", "writeback", "not-durable", words=("--sync", "none")),
    "sync_file_range": Cached(
        "ext4", "writeback", "not-durable", words=("--sync", "sync_file_range")
    ),
    "liar, dropped": Lying("lost", {"drop": 1}),
    "liar, torn": Lying("torn", {"tear": 1}),
    "liar, misdirected": Lying("misdirected", {"misdirect": 1}),
    "liar, bit flip": Lying("corrupted", {"flip": 1}),
    "liar, flush error": Lying("sync_error", {"flush_error": 1}),
    "liar, flush lies": Lying("lost", LIES),
    "liar, reordered": Lying("reordered", LIES, keep=0.5),
    "liar, honest": Lying(None),
    "liar, honest, keeps half": Lying(None, keep=0.5),
}


@dataclass
class _Tally:
    right: int = 0
    wrong: int = 0
    untold: int = 0
    """"could not tell": a machine so busy that nothing was in flight when the cut came"""
    seconds: float = 0.0


class _Table:
    """What came of the cycles so far; printed whenever a round of a kind is over."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.tallies = {kind: _Tally() for kind in kinds}
        self._lock = threading.Lock()

    def add(self, kind: str, right: bool, told: bool, seconds: float) -> None:
        with self._lock:
            tally = self.tallies[kind]
            tally.right += right
            tally.wrong += told and not right
            tally.untold += not (right or told)
            tally.seconds += seconds

    def __str__(self) -> str:
        lines = [
            "| disk | right | wrong | could not tell | seconds a cycle |",
            "|---|---|---|---|---|",
        ]
        for kind, tally in self.tallies.items():
            count = tally.right + tally.wrong + tally.untold
            each = f"{tally.seconds / count:.1f}" if count else ""
            lines.append(f"| {kind} | {tally.right} | {tally.wrong} | {tally.untold} | {each} |")
        return "\n".join(lines)


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="disk-cycles-", dir=folder) as name:
        yield Path(name)


def _round(
    kind: str, cycles: int, wrong: Path, add: Callable[[str, bool, bool, float], None]
) -> None:
    """Some cycles of one kind, against one listener."""
    with _scratch() as folder, Checker(folder, Forked) as checker:
        for number in range(cycles):
            own = folder / str(number)
            own.mkdir()
            begun = time.monotonic()
            report = KINDS[kind].cycle(own, checker)
            right, told = KINDS[kind].right(report), report["exit_code"] != UNKNOWN
            add(kind, right, told, time.monotonic() - begun)
            if told and not right:
                kept = wrong / f"wrong-{kind.replace(', ', '-').replace(' ', '-')}-{number}.json"
                kept.write_text(json.dumps(report, indent=1))
            shutil.rmtree(own)


def main(words: Sequence[str]) -> int:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="disk_cycles", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of: {'; '.join(KINDS)}")
    parser.add_argument("--cycles", type=int, default=100, help="of each kind")
    parser.add_argument("--round", type=int, default=10, help="of a kind before the next one's")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="kinds at once")
    parser.add_argument("--wrong", type=Path, default=Path(), help="folder for wrong reports")
    asked = parser.parse_args(words)
    unknown = [kind for kind in asked.kinds if kind not in KINDS]
    if unknown:
        parser.error(f"no such kind: {', '.join(unknown)}; there are: {'; '.join(KINDS)}")
    kinds = asked.kinds or list(KINDS)
    table = _Table(kinds)
    # So that what is under way is taken down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rounds = [min(asked.round, asked.cycles - at) for at in range(0, asked.cycles, asked.round)]
    pool = ThreadPoolExecutor(asked.jobs)
    try:
        work = [
            pool.submit(_round, kind, cycles, asked.wrong, table.add)
            for cycles in rounds
            for kind in kinds
        ]
        for done in work:
            done.result()
            print(table, end="\n\n", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return 1 if any(tally.wrong for tally in table.tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
