"""One virtual machine, as its rack sees it: power and cables.

=========  ==================================================================
``on``     power comes back; the machine boots
``pull``   the power goes: its qemu is killed, as it stands
``press``  the button is pressed: the guest is asked to shut down
``reset``  power goes and comes back
``renew``  another machine is put in its place: the same cables, disks with nothing on them
``cut``    a cable is unplugged: the guest sees no carrier
``mend``   it is plugged in again
=========  ==================================================================

What the guest had flushed is on its disks when the power goes.  The root disk is a
copy-on-write layer over the image; further disks are sparse files of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from asyncio.subprocess import Process
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.lab.image import Image
from tools.lab.plan import Host

CPU = {"kvm": "host", "tcg": "max"}


class MachineError(Exception):
    """What was asked of a machine can't be done; says why."""


@dataclass(frozen=True)
class Frame:
    """Where a machine's files are: its image, its own folder, and how it is run."""

    image: Image
    folder: Path
    accelerator: str = "tcg"

    @property
    def disk(self) -> Path:
        """The copy-on-write root disk."""
        return self.folder / "root.qcow2"

    @property
    def seed(self) -> Path:
        """The archive that the guest unpacks at every boot."""
        return self.folder / "seed.tar"

    @property
    def console(self) -> Path:
        """Everything that the guest's console has said, over all its boots."""
        return self.folder / "console.log"

    @property
    def monitor(self) -> Path:
        """The socket of qemu's own monitor."""
        return self.folder / "qmp"

    def data(self, serial: str) -> Path:
        """One of the further disks."""
        return self.folder / f"{serial}.disk"


def prepare(host: Host, frame: Frame, seed: bytes) -> None:
    """Make the machine's disks, empty but for the image and the seed."""
    frame.folder.mkdir(parents=True)
    frame.seed.write_bytes(seed)
    make_disks(host, frame)


def make_disks(host: Host, frame: Frame) -> None:
    """Make the root disk, as the image has it, and empty further disks; what was there is gone."""
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(frame.image.root)]
    subprocess.run([*words, str(frame.disk)], check=True, capture_output=True)
    for serial, size_mb in host.disks.items():
        with frame.data(serial).open("wb") as file:
            file.truncate(size_mb << 20)


def command(host: Host, frame: Frame) -> list[str]:
    """The words that start the machine's qemu."""
    accel = frame.accelerator + (",thread=multi" if frame.accelerator == "tcg" else "")
    words = ["qemu-system-x86_64", "-name", host.name, "-accel", accel]
    words += ["-cpu", CPU[frame.accelerator], "-smp", "1", "-m", str(host.memory_mb)]
    words += ["-nodefaults", "-no-user-config", "-display", "none"]
    words += ["-kernel", str(frame.image.kernel), "-initrd", str(frame.image.initrd)]
    # Emulated, a switch of page tables at every system call is what a guest mostly does.
    words += [
        "-append",
        "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=5 quiet mitigations=off",
    ]
    words += ["-chardev", f"file,id=console,path={frame.console},append=on"]
    words += ["-serial", "chardev:console", "-qmp", f"unix:{frame.monitor},server=on,wait=off"]
    words += ["-device", "virtio-rng-pci", "-device", "i6300esb", "-action", "watchdog=reset"]
    disks = [(frame.disk, "qcow2", "root"), (frame.seed, "raw", "seed")]
    disks += [(frame.data(serial), "raw", serial) for serial in host.disks]
    for path, form, serial in disks:
        readonly = ",readonly=on" if serial == "seed" else ""
        words += ["-drive", f"if=none,id={serial},format={form},file={path}{readonly}"]
        words += ["-device", f"virtio-blk-pci,drive={serial},serial={serial}"]
    for link in host.links:
        words += ["-netdev", f"tap,id={link.tap},ifname={link.tap},script=no,downscript=no"]
        words += ["-device", f"virtio-net-pci,netdev={link.tap},mac={link.mac},id={link.network}"]
    return words


class Machine:
    """A machine of a running lab; belongs to the event loop of its keeper."""

    def __init__(self, host: Host, frame: Frame) -> None:
        self.host = host
        self._frame = frame
        self._process: Process | None = None
        self._cut: set[str] = set()

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._process is not None and self._process.returncode is None

    @property
    def cut_links(self) -> list[str]:
        """Networks whose cable is unplugged."""
        return sorted(self._cut)

    async def on(self) -> None:
        """Give it power; nothing happens where it has."""
        if self.is_on:
            return
        log = self._frame.folder / "qemu.log"
        with log.open("ab") as file:
            self._process = await asyncio.create_subprocess_exec(
                *command(self.host, self._frame), stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        if self._cut:
            for network in sorted(self._cut):
                await self._plug(network, up=False)

    async def pull(self) -> None:
        """Take its power away, now."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def reset(self) -> None:
        """Take its power away and give it back."""
        await self.pull()
        await self.on()

    async def renew(self) -> None:
        """Put another machine in its place, which has never run; it is left off.

        Raises:
            MachineError: it has power.
        """
        if self.is_on:
            raise MachineError(f"{self.host.name} has power: pull it first")
        make_disks(self.host, self._frame)

    async def press(self) -> None:
        """Press its power button.

        Raises:
            MachineError: it is off.
        """
        await self._ask("system_powerdown")

    async def cut(self, network: str) -> None:
        """Unplug the cable to a network.

        Raises:
            MachineError: it has none.
        """
        await self._plug(network, up=False)
        self._cut.add(network)

    async def mend(self, network: str) -> None:
        """Plug it in again.

        Raises:
            MachineError: it has none.
        """
        await self._plug(network, up=True)
        self._cut.discard(network)

    async def _plug(self, network: str, *, up: bool) -> None:
        if network not in {link.network for link in self.host.links}:
            known = ", ".join(link.network for link in self.host.links)
            raise MachineError(f"{self.host.name} has no cable to {network}, but to {known}")
        if self.is_on:
            await self._ask("set_link", name=network, up=up)

    async def _ask(self, what: str, **arguments: Any) -> None:
        """Have qemu's monitor carry out a command (qemu's QMP reference)."""
        if not self.is_on:
            raise MachineError(f"{self.host.name} is off")
        reader, writer = await self._monitor()
        try:
            await reader.readline()  # the greeting
            for name, words in (("qmp_capabilities", {}), (what, arguments)):
                request = {"execute": name, "arguments": words}
                writer.write(json.dumps(request).encode() + b"\n")
                while True:
                    line = await reader.readline()
                    if not line:
                        raise MachineError(f"{self.host.name} went off")
                    answer = json.loads(line)
                    if "error" in answer:
                        raise MachineError(f"{self.host.name}: {answer['error']['desc']}")
                    if "return" in answer:  # else an event
                        break
        finally:
            writer.close()

    async def _monitor(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the monitor, which appears a moment after qemu was started."""
        while True:
            try:
                return await asyncio.open_unix_connection(self._frame.monitor)
            except (FileNotFoundError, ConnectionRefusedError):
                if not self.is_on:
                    raise MachineError(f"{self.host.name} is off") from None
                await asyncio.sleep(0.05)
