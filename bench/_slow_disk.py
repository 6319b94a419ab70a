"""A disk with the pace of a real one: every write takes 2 ms, reads come at 500 MB/s.

nbdkit serves memory with those delays, nbdfuse makes it a file, a loop device a disk.  On it
programs wait for the disk, as in earnest, and not for this machine's processors.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

WRITE_MS = 2
READ_MB_S = 500


def available() -> bool:
    """Whether this machine can have one: root, /dev/fuse, nbdkit and nbdfuse."""
    programs = all(shutil.which(name) for name in ("nbdkit", "nbdfuse"))
    return os.geteuid() == 0 and Path("/dev/fuse").exists() and programs


@contextmanager
def slow_disk(folder: Path, size: int) -> Iterator[Path]:
    """The loop device, for the length of the block.

    Args:
        folder: for the socket and the mount point.
        size: bytes.

    Raises:
        RuntimeError: a program did not start.
    """
    socket, mount = folder / "nbd.sock", folder / "slow"
    export = mount / "nbd"
    mount.mkdir()
    delays = ["--filter=delay", "--filter=rate"]
    rates = [f"wdelay={WRITE_MS}ms", f"rate={READ_MB_S * 8}M", "burstiness=0.1"]
    with ExitStack() as stack:
        stack.enter_context(_running("nbdkit", "-f", "-U", socket, *delays, "memory", size, *rates))
        _appears(socket)
        fuse = stack.enter_context(_running("nbdfuse", mount, "--unix", socket))
        stack.callback(_unmount, mount, fuse)
        _appears(export)
        stack.callback(detach, export)
        # Past the page cache, which would else answer reads at the second time.
        words = ["losetup", "--direct-io=on", "-f", "--show", str(export)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        yield Path(done.stdout.strip())


def detach(file: Path) -> None:
    """Take down every loop device over a file.

    Asked of the kernel, since a signal may come between the device and the telling of its name.
    """
    words = ["losetup", "-j", str(file)]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    for line in said.splitlines():
        subprocess.run(["losetup", "-d", line.partition(":")[0]], check=True)


@contextmanager
def _running(*words: str | int | Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _unmount(mount: Path, fuse: subprocess.Popen[bytes]) -> None:
    subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
    with contextlib.suppress(subprocess.TimeoutExpired):  # it is terminated next
        fuse.wait(5)


def _appears(path: Path, longest_s: float = 10.0) -> None:
    deadline = time.monotonic() + longest_s
    while not path.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{path} did not appear: nbdkit or nbdfuse did not start")
        time.sleep(0.02)
