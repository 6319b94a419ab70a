"""A container: systemd-nspawn boots the image's own systemd, on this machine's kernel.

For hosts that need no kernel of their own.  The root is an overlay over the image, so
what the host writes is its own; it has no further disks.  When its power goes all of its
processes are killed, but what they had written is kept, flushed or not: this machine's kernel
has it.  What a power-pull does to data is proven on virtual machines.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import time
from asyncio.subprocess import Process
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.lab.machine import Frame, Machine, MachineError, carry_out
from tools.lab.plan import Host

CGROUPS = Path("/sys/fs/cgroup")
HIERARCHIES = (CGROUPS, CGROUPS / "systemd", CGROUPS / "unified")
"""Where a kernel's control groups may be: all in one, or beside those of version 1."""
DYING_S = 30.0
"""How long processes that were killed may take to be gone."""
REBOOT = 133
"""What nspawn ends with when its container wants to boot anew (systemd-nspawn(1), --keep-unit)."""
IN_GROUPS = 'while [ "$1" != -- ]; do echo 0 >"$1" || exit; shift; done; shift; exec "$@"'
"""A shell's program: ``FILE... -- COMMAND`` goes into the groups whose files they are."""


def groups(folder: Path) -> Iterator[Path]:
    """The control groups of a machine with this folder, in each hierarchy that there is."""
    name = f"lj-lab-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    for hierarchy in HIERARCHIES:
        if (hierarchy / "cgroup.procs").exists():
            yield hierarchy / name


def drop_groups(folder: Path) -> None:
    """Kill what is left in the control groups of a machine with this folder, and remove them.

    Raises:
        MachineError: something can't be killed.
    """
    deadline = time.monotonic() + DYING_S
    for group in groups(folder):
        while group.exists():
            for file in group.glob("**/cgroup.procs"):
                for number in file.read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(number), signal.SIGKILL)
            try:
                for each in sorted(group.glob("**/"), reverse=True):
                    each.rmdir()
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise MachineError(f"{group} can't be removed: {error.strerror}") from error
                time.sleep(0.02)


def command(host: Host, frame: Frame) -> list[str]:
    """The words that boot the container."""
    words = ["systemd-nspawn", "--quiet", "--boot", f"--machine={host.name}"]
    words += [f"--directory={root_of(frame)}", "--register=no", "--keep-unit"]
    words += ["--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only"]
    for number, link in enumerate(host.links):
        words.append(f"--network-veth-extra={link.tap}:eth{number}")
    return words


def root_of(frame: Frame) -> Path:
    """Where the container's root is mounted, in the mount namespace of the keeper."""
    return frame.folder / "root"


class Container(Machine):
    """A machine that systemd-nspawn boots.

    Args:
        host: what it is to be.
        frame: its files.
        bridges: the bridge of each network.
    """

    def __init__(self, host: Host, frame: Frame, bridges: Mapping[str, str]) -> None:
        super().__init__(host, frame)
        self._bridges = bridges
        self._watches: set[asyncio.Task[None]] = set()

    def make(self) -> None:
        """Have nothing over the image."""
        root = root_of(self._frame)
        while root.is_mount():
            carry_out(["umount", root])
        for name in ("root", "image", "changed", "work"):
            folder = self._frame.folder / name
            if name in {"changed", "work"} and folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(exist_ok=True)

    def _mount(self) -> None:
        """Mount the root, for this keeper alone, and unpack the seed over it."""
        folder, root = self._frame.folder, root_of(self._frame)
        layers = f"lowerdir={folder}/image,upperdir={folder}/changed,workdir={folder}/work"
        steps: list[list[str | Path]] = []
        if not (folder / "image").is_mount():
            image = self._frame.image.root
            steps.append(["mount", "-o", "loop,ro,noload", image, folder / "image"])
        if not root.is_mount():
            steps.append(["mount", "-t", "overlay", "-o", layers, "overlay", root])
        steps.append(["tar", "--extract", f"--file={self._frame.seed}", f"--directory={root}"])
        for words in steps:
            carry_out(words)

    async def _start(self) -> Process:
        await asyncio.to_thread(self._mount)
        drop_groups(self._frame.folder)
        for link in self.host.links:
            # The kernel takes a killed container's network apart when it has time.
            with contextlib.suppress(MachineError):
                await _ip("link", "delete", link.tap)
        into = []
        for group in groups(self._frame.folder):
            group.mkdir()
            into.append(str(group / "cgroup.procs"))
        words = ["sh", "-c", IN_GROUPS, "sh", *into, "--", *command(self.host, self._frame)]
        with self._frame.log.open("ab") as log, self._frame.console.open("ab") as console:
            process = await asyncio.create_subprocess_exec(
                *words, stdin=subprocess.DEVNULL, stdout=console, stderr=log
            )
        for link in self.host.links:
            await self._connect(process, link.tap, self._bridges[link.network])
        watch = asyncio.create_task(self._boot_again(process))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        return process

    async def _boot_again(self, process: Process) -> None:
        """Start it anew when it was told to reboot, which nspawn leaves to others."""
        if await process.wait() == REBOOT:
            async with self.lock:
                # Its power may have been pulled, or somebody was first.
                if self._process is process:
                    await self.on()

    async def _connect(self, process: Process, device: str, bridge: str) -> None:
        """Plug a cable's end into its network, as soon as nspawn has made it."""
        while True:
            try:
                return await _ip("link", "set", device, "master", bridge, "up")
            except MachineError:
                if process.returncode is not None:
                    told = self._frame.log.read_text()[-500:]
                    raise MachineError(f"{self.host.name} did not start: {told}") from None
            await asyncio.sleep(0.02)

    async def pull(self) -> None:
        """Kill all of its processes."""
        await super().pull()
        await asyncio.to_thread(drop_groups, self._frame.folder)

    async def _press(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    async def _plug(self, network: str, *, up: bool) -> None:
        for link in self.host.links:
            if link.network == network:
                await _ip("link", "set", link.tap, "up" if up else "down")


async def _ip(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "ip", *words, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    _, told = await process.communicate()
    if process.returncode != 0:
        raise MachineError(f"ip {' '.join(words)}: {told.decode().strip()}")
