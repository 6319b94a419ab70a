"""The benchmark leaves no disk behind, also when it is ended in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import wait_for

pytestmark = pytest.mark.faults

MEMORY = Path("/dev/shm")


def backing_files() -> str:
    """Of all loop devices."""
    words = ["losetup", "--list", "--noheadings", "--output", "BACK-FILE"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_a_benchmark_that_is_terminated_takes_its_disks_down(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "disk_checker", "--quick"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
    )
    try:
        # One for the checker, one for its peer, each below a folder of its own.
        wait_for(
            lambda: (
                len(own := [*tmp_path.glob("bench-disk-*")]) > 1
                and all(folder.name in backing_files() for folder in own)
            ),
            "two loop devices",
            timeout_s=60,
        )
        names = [folder.name for folder in tmp_path.glob("bench-disk-*")]
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 128 + signal.SIGTERM
    assert not any(name in backing_files() for name in names)
    assert not any((MEMORY / f"{name}.img").exists() for name in names)
    assert not list(tmp_path.iterdir())
