"""A virtual machine: qemu, with a disk of its own over the image.

What the guest had flushed is on its disks when the power goes.  The root disk is a
copy-on-write layer over the image; further disks are sparse files of their own.
"""

from __future__ import annotations

import asyncio
import errno
import json
import subprocess
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

from tools.lab.machine import Frame, Machine, MachineError, carry_out
from tools.lab.plan import Host

CPU = {"kvm": "host", "tcg": "qemu64"}
"""Emulated, a processor of few features costs a fifth less: nothing asks for what is dear."""
MONITOR_S = 40.0
"""How long qemu's monitor may take to answer."""
REQUESTS = ("read", "write", "write-zeroes", "discard")
"""What a failed disk is asked for in vain, in qemu's words.  To flush what it took before is no
error: qemu flushes it to put it right again."""


def root_of(frame: Frame) -> Path:
    """The copy-on-write root disk."""
    return frame.folder / "root.qcow2"


def monitor_of(frame: Frame) -> Path:
    """The socket of qemu's own monitor."""
    return frame.folder / "qmp"


# mitigations=off: emulated, a guest would mostly switch page tables, at every system call.
# norandmaps: what a program's code was translated to is found again where the program is loaded at
# the same addresses each time; processes start two to five times as fast.
# no_timer_check: on a busy machine interrupts come too late for the kernel's test of its timer.
KERNEL_WORDS = (
    "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=5 quiet"
    " mitigations=off norandmaps no_timer_check"
)


def command(host: Host, frame: Frame) -> list[str]:
    """The words that start the machine's qemu."""
    accel = frame.accelerator + (",thread=multi" if frame.accelerator == "tcg" else "")
    words = ["qemu-system-x86_64", "-name", host.name, "-accel", accel]
    words += ["-cpu", CPU[frame.accelerator], "-smp", "1", "-m", str(host.memory_mb)]
    words += ["-nodefaults", "-no-user-config", "-display", "none"]
    words += ["-kernel", str(frame.image.kernel), "-initrd", str(frame.image.initrd)]
    words += ["-append", KERNEL_WORDS]
    words += ["-chardev", f"file,id=console,path={frame.console},append=on"]
    words += ["-serial", "chardev:console", "-qmp", f"unix:{monitor_of(frame)},server=on,wait=off"]
    words += ["-device", "virtio-rng-pci", "-device", "i6300esb", "-action", "watchdog=reset"]
    words += ["-drive", f"if=none,id=root,format=qcow2,file={root_of(frame)}"]
    words += ["-drive", f"if=none,id=seed,format=raw,file={frame.seed},readonly=on"]
    for serial in host.disks:
        # Two nodes, so that something can be put between them (VirtualMachine._break).
        words += ["-blockdev", f"driver=file,node-name={serial}-file,filename={frame.data(serial)}"]
        words += ["-blockdev", f"driver=raw,node-name={serial},file={serial}-file"]
    for serial in ("root", "seed", *host.disks):
        words += ["-device", f"virtio-blk-pci,drive={serial},serial={serial}"]
    for link in host.links:
        words += ["-netdev", f"tap,id={link.tap},ifname={link.tap},script=no,downscript=no"]
        words += ["-device", f"virtio-net-pci,netdev={link.tap},mac={link.mac},id={link.network}"]
    return words


class VirtualMachine(Machine):
    """A machine that qemu runs."""

    def make(self) -> None:
        """Make the root disk, as the image has it, and empty further disks."""
        layer = ["-b", str(self._frame.image.root), str(root_of(self._frame))]
        carry_out(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", *layer])
        for serial, size_mb in self.host.disks.items():
            with self._frame.data(serial).open("wb") as file:
                file.truncate(size_mb << 20)

    async def _start(self) -> Process:
        with self._frame.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *command(self.host, self._frame), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def _press(self) -> None:
        await self._ask("system_powerdown")

    async def _plug(self, network: str, *, up: bool) -> None:
        await self._ask("set_link", name=network, up=up)

    async def _break(self, serial: str, *, broken: bool) -> None:
        """Put a layer of errors between the guest's disk and its file, or take it out."""
        file, layer = f"{serial}-file", f"{serial}-broken"
        if broken:
            every = {"event": "none", "errno": errno.EIO, "once": False, "immediately": True}
            errors = [{**every, "iotype": request} for request in REQUESTS]
            node = {"driver": "blkdebug", "node-name": layer, "image": file, "inject-error": errors}
            await self._ask("blockdev-add", **node)
        below = layer if broken else file
        disk = {"driver": "raw", "node-name": serial, "file": below}
        await self._ask("blockdev-reopen", options=[disk])
        if not broken:
            await self._ask("blockdev-del", **{"node-name": layer})

    async def _ask(self, what: str, **arguments: Any) -> None:
        """Have qemu's monitor carry out a command (qemu's QMP reference)."""
        try:
            async with asyncio.timeout(MONITOR_S):
                await self._tell(what, arguments)
        except TimeoutError:
            raise MachineError(f"{self.host.name}: qemu's monitor does not answer") from None

    async def _tell(self, what: str, arguments: dict[str, Any]) -> None:
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
                return await asyncio.open_unix_connection(monitor_of(self._frame))
            except (FileNotFoundError, ConnectionRefusedError):
                if not self.is_on:
                    raise MachineError(f"{self.host.name} is off") from None
                await asyncio.sleep(0.05)
