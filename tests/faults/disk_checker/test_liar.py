"""Our liar under the whole chain: kernel, loop device, command line, listener.

The same faults a hundred times each, without a kernel, are in test_liar_in_memory.py; with
DISK_CHECKER_LONG=1 they are a hundred here too.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.disk_rig import Checker, Rig
from tests.support.liar_disk import LiarDisk

pytestmark = pytest.mark.faults

RUNS = 100 if os.environ.get("DISK_CHECKER_LONG") == "1" else 1
BLOCK = 4096


@pytest.mark.parametrize(
    ("fault", "keep", "cls"),
    [
        ({"drop": 1}, 0.0, "lost"),
        ({"tear": 1}, 0.0, "torn"),
        ({"misdirect": 1}, 0.0, "misdirected"),
        ({"flip": 1}, 0.0, "corrupted"),
        ({"flush_error": 1}, 0.0, "sync_error"),
        ({"flush_lies": 1.0}, 0.0, "lost"),
        ({"flush_lies": 1.0}, 0.5, "reordered"),
        ({}, 0.0, None),
        ({}, 0.5, None),
    ],
    ids=[
        *("dropped", "torn", "misdirected", "bit-flip", "flush-error", "flush-lies"),
        *("reordered", "honest", "honest-keeps-half"),
    ],
)
def test_each_fault_through_the_kernel(
    tmp_path: Path, fault: dict[str, float], keep: float, cls: str | None
) -> None:
    for number in range(RUNS):
        folder = tmp_path / str(number)
        folder.mkdir()
        liar = LiarDisk(64 << 20, number)
        with Rig(folder, liar=liar) as rig, Checker(folder) as checker:
            device = rig.power_on()
            writing = checker.create(
                device, "64M", "--workload", "append", "--block-size", "4k", "--read-back", "0",
                *([] if "flush_error" in fault else ["--direct"]),
            )  # fmt: skip
            checker.wait_acked(writing, 100)
            liar.faults.least = BLOCK
            for name, value in fault.items():
                setattr(liar.faults, name, value)  # switched while it runs
            checker.wait_acked(writing, checker.acked(writing.run) + 150)
            writing.freeze()
            rig.cut(keep)
            writing.kill()
            writing.finish()
            report = checker.verify(rig.restart(), "--run", writing.run)
        if cls is None:
            assert report["verdict"] == "honest", report
        else:
            assert report["exit_code"] == 1, report
            assert cls in report["faults"], report
