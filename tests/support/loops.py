"""Disks that are files of this machine, as root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.sandbox import Sandbox


@contextmanager
def loop_disks(host: Sandbox, folder: Path, **megabytes: int) -> Iterator[Mapping[str, str]]:
    """Empty disks of a sandbox: its name below /dev/disk/by-id -> the device.

    Args:
        host: where the names are; the devices are the kernel's.
        folder: for the files.
        megabytes: size of each disk, by its name.
    """
    with ExitStack() as stack:
        found = {}
        host.run("mkdir", "-p", "/dev/disk/by-id")
        for name, size in megabytes.items():
            file = folder / f"{name}.disk"
            with file.open("wb") as handle:
                handle.truncate(size << 20)
            made = ["losetup", "--find", "--show", file]
            device = subprocess.run(made, capture_output=True, text=True, check=True).stdout.strip()
            stack.callback(subprocess.run, ["losetup", "--detach", device], check=True)
            host.run("ln", "-s", device, f"/dev/disk/by-id/{name}")
            found[f"/dev/disk/by-id/{name}"] = device
        yield found
