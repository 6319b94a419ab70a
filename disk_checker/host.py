"""Who this host is and what the target lies on: names, boot, mounts."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from pathlib import Path

from disk_checker.plan import Mount


def machine() -> str:
    """A name of this host that a reboot and a new address do not change."""
    with contextlib.suppress(OSError):
        name = Path("/etc/machine-id").read_text().strip()
        if name:
            return f"{name}/{socket.gethostname()}"
    return socket.gethostname()


def boot() -> str:
    """Changes with every boot."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def run_tool(*command: str, timeout_s: float = 10) -> tuple[int, str]:
    """A host tool's exit code and output; (127, reason) when there is no such tool."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, (done.stdout + done.stderr).strip()


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def mounts() -> list[tuple[str, Mount]]:
    """(device number "major:minor", mount) of everything mounted, in the order of mounting."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        numbers, names = left.split(), right.split()
        if len(numbers) < 6 or len(names) < 3:
            continue
        options = dict.fromkeys([*numbers[5].split(","), *names[2].split(",")])
        found.append(
            (
                numbers[2],
                Mount(
                    source=_unescape(names[1]),
                    point=_unescape(numbers[4]),
                    type=names[0],
                    options=",".join(options),
                ),
            )
        )
    return found


def mount_of(path: Path) -> Mount | None:
    """The mount that a path (or its nearest existing parent) lies on, with its UUID."""
    while not path.exists():
        path = path.parent
    path = path.resolve()
    best: Mount | None = None
    for _, mount in mounts():
        if path.is_relative_to(mount.point) and (
            best is None or len(mount.point) >= len(best.point)
        ):
            best = mount
    if best is None:
        return None
    uuid = uuid_of(best.source) if best.source.startswith("/dev/") else ""
    return best.model_copy(update={"uuid": uuid})


def uuid_of(device: str) -> str:
    """The UUID of the file system on a device; "" for none, or where only root may know."""
    code, out = run_tool("blkid", "-c", "/dev/null", "-s", "UUID", "-o", "value", device)
    return out if code == 0 else ""


def device_size(path: Path) -> int:
    """Bytes of a block device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
