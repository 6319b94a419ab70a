"""The power of a virtual machine is pulled, and that of its disk with it.

    python -m tests.support.disk_guest IMAGE

The disk is behind NBD: to kill qemu alone would leave all that the guest wrote in this machine's
memory.  nbdkit's cache is the disk's: honest, or one that ignores flushes.  IMAGE is a folder that
`make lab-up` has built: var/cache/lab/...  Ends with 1 if a verdict was wrong.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from disk_checker.verify import note
from tests.support.disk_rig import Checker, acked, command
from tests.support.disk_vm import WITHIN_S, Guest
from tests.support.process import wait_for
from tools.lab.image import Image

EXPECTED = {"writeback": "0", "unsafe": "1"}
"""nbdkit's cache modes, and how `disk-checker verify` ends after a power-pull."""
ENOUGH = 300
"""Acknowledged writes before the power is pulled."""
TARGET_SIZE = 8 << 20
NETWORK = ("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net")


@contextmanager
def powered(folder: Path, image: Path, mode: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The disk's server; gives qemu's name of it."""
    socket, volatile = folder / "nbd.sock", folder / "volatile"
    socket.unlink(missing_ok=True)
    volatile.mkdir(exist_ok=True)
    words: list[str | Path] = ["nbdkit", "-f", "-U", socket, "--filter=cache", "file", image]
    server = subprocess.Popen(
        [*words, f"cache={mode}", "cache-min-block-size=4096"],
        env={**os.environ, "TMPDIR": str(volatile)},
        stdin=subprocess.DEVNULL,
    )
    try:
        wait_for(socket.exists, "nbdkit's socket")
        yield f"nbd+unix:///?socket={socket}", server
    finally:
        server.kill()
        server.wait()


def pull(guest: Guest, folder: Path, image: Path, checker: Checker, mode: str) -> None:
    """Let the guest write, and pull its power."""
    port = checker.address.rpartition(":")[2]

    def acknowledged() -> int:
        return sum(acked(checker.state, run.stem) for run in checker.state.glob("*.journal"))

    with powered(folder, image, mode) as (disk, server):
        console = folder / f"{mode}.log"
        with console.open("wb") as out:
            machine = subprocess.Popen(
                guest.words(disk, "write", port, more=NETWORK), stdout=out, stdin=subprocess.DEVNULL
            )
        try:
            wait_for(
                lambda: acknowledged() >= ENOUGH or machine.poll() is not None,
                f"{ENOUGH} acknowledged writes",
                timeout_s=WITHIN_S,
                every_s=0.05,
            )
            assert machine.poll() is None, console.read_text()
            # qemu's user network closes the guest's connections, as no power cut does.
            for run in checker.state.glob("*.journal"):
                note(checker.address, int(run.stem, 16), "cut")
            # Nobody in there may see that the disk goes first.
            machine.send_signal(signal.SIGSTOP)
            server.kill()
        finally:
            machine.kill()
            machine.wait()


def verdict(guest: Guest, folder: Path, image: Path, checker: Checker) -> str:
    """Let the machine boot with what its disk has kept; how the checker ended there."""
    port = checker.address.rpartition(":")[2]
    with powered(folder, image, "writeback") as (disk, _):
        done = subprocess.run(
            guest.words(disk, "verify", port, more=NETWORK),
            stdout=subprocess.PIPE,
            text=True,
            timeout=WITHIN_S,
        )
    print(done.stdout)
    return next((s.split()[1] for s in done.stdout.splitlines() if s.startswith("ENDED ")), "")


def main(image: Image) -> int:
    """One power-pull of each kind of disk."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="disk-guest-") as name:
        guest = Guest(image, Path(name), Path(__file__).with_suffix(".sh"))
        for mode in EXPECTED:
            folder = Path(name) / mode
            (folder / "tree").mkdir(parents=True)
            # All blocks of the target are there: what is lost then is not the file.
            (folder / "tree/target").write_bytes(b"\xff" * TARGET_SIZE)
            disk = folder / "disk.img"
            command("mke2fs", "-q", "-t", "ext4", "-d", folder / "tree", disk, "64M")
            with Checker(folder) as checker:
                pull(guest, folder, disk, checker, mode)
                found[mode] = verdict(guest, folder, disk, checker)
    print(found)
    return 0 if found == EXPECTED else 1


if __name__ == "__main__":
    sys.exit(main(Image(Path(sys.argv[1]))) if len(sys.argv) == 2 else __doc__)
