"""One host of a lab, as its rack sees it: power, cables and disks.

=========  ==================================================================
``on``     power comes back; the machine boots
``pull``   the power goes: all of its processes end, as they stand
``press``  the button is pressed: it is asked to shut down
``reset``  power goes and comes back
``renew``  another machine is put in its place: the same cables, disks with nothing on them
``cut``    a cable is unplugged: the host sees no carrier
``mend``   it is plugged in again
``fail``   a disk answers reads and writes with errors
``heal``   it works again, with what it held
=========  ==================================================================

``virtual`` makes one with qemu, ``container`` with systemd-nspawn.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from abc import ABC, abstractmethod
from asyncio.subprocess import Process
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.lab.image import Image
from tools.lab.plan import Host


class MachineError(Exception):
    """What was asked of a machine can't be done; says why."""


def carry_out(words: Sequence[str | Path]) -> None:
    """Run a program of this machine, and wait for its end.

    Raises:
        MachineError: it failed; holds what it said.
    """
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        told = (run.stderr or run.stdout).strip()
        raise MachineError(f"{' '.join(map(str, words))} failed with {run.returncode}: {told}")


@dataclass(frozen=True)
class Frame:
    """Where a machine's files are: its image, its own folder, and how qemu runs it."""

    image: Image
    folder: Path
    accelerator: str = "tcg"

    @property
    def console(self) -> Path:
        """Everything that its console has said, over all its boots."""
        return self.folder / "console.log"

    @property
    def log(self) -> Path:
        """What the program that runs it has said."""
        return self.folder / "machine.log"

    @property
    def seed(self) -> Path:
        """The archive that is unpacked over its root at every boot."""
        return self.folder / "seed.tar"

    def data(self, serial: str) -> Path:
        """One of its further disks."""
        return self.folder / f"{serial}.disk"


class Machine(ABC):
    """A machine of a running lab; belongs to the event loop of its keeper.

    Args:
        host: what it is to be.
        frame: its files, which :meth:`make` has made once.

    Attributes:
        lock: held by whoever does something to it: one thing at a time.
    """

    def __init__(self, host: Host, frame: Frame) -> None:
        self.host = host
        self.lock = asyncio.Lock()
        self._frame = frame
        self._process: Process | None = None
        self._cut: set[str] = set()
        self._failed: set[str] = set()

    @abstractmethod
    def make(self) -> None:
        """Make its disks: the image's content, and nothing on the further ones."""

    @abstractmethod
    async def _start(self) -> Process:
        """Start the program that runs it."""

    @abstractmethod
    async def _press(self) -> None:
        """Ask the running machine to shut down."""

    @abstractmethod
    async def _plug(self, network: str, *, up: bool) -> None:
        """Plug in a cable of the running machine, or unplug it."""

    async def _break(self, serial: str, *, broken: bool) -> None:
        """Have a disk of the running machine answer with errors, or not any more."""
        raise MachineError(f"{self.host.name} has no disk {serial} that could fail")

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._process is not None and self._process.returncode is None

    def status(self) -> dict[str, Any]:
        """Its power, unplugged cables and failed disks."""
        return {"on": self.is_on, "cut": sorted(self._cut), "failed": sorted(self._failed)}

    async def on(self) -> None:
        """Give it power; nothing happens where it has."""
        if self.is_on:
            return
        self._process = await self._start()
        for network in sorted(self._cut):
            await self._plug(network, up=False)
        for serial in sorted(self._failed):
            await self._break(serial, broken=True)

    async def pull(self) -> None:
        """Take its power away, now."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def reset(self) -> None:
        """Take its power away and give it back."""
        await self.pull()
        await self.on()

    async def press(self) -> None:
        """Press its power button.

        Raises:
            MachineError: it is off.
        """
        if not self.is_on:
            raise MachineError(f"{self.host.name} is off")
        await self._press()

    async def renew(self) -> None:
        """Put another machine in its place, which has never run; it is left off.

        Raises:
            MachineError: it has power.
        """
        if self.is_on:
            raise MachineError(f"{self.host.name} has power: pull it first")
        self.make()
        self._failed.clear()

    async def cut(self, network: str) -> None:
        """Unplug the cable to a network.

        Raises:
            MachineError: it has none.
        """
        await self._cable(network, up=False)
        self._cut.add(network)

    async def mend(self, network: str) -> None:
        """Plug it in again.

        Raises:
            MachineError: it has none.
        """
        await self._cable(network, up=True)
        self._cut.discard(network)

    async def _cable(self, network: str, *, up: bool) -> None:
        if network not in {link.network for link in self.host.links}:
            known = ", ".join(link.network for link in self.host.links)
            raise MachineError(f"{self.host.name} has no cable to {network}, but to {known}")
        if self.is_on:
            await self._plug(network, up=up)

    async def fail(self, serial: str) -> None:
        """Have one of the further disks answer reads and writes with errors (EIO).

        Raises:
            MachineError: there is no such disk.
        """
        if serial not in self.host.disks:
            known = ", ".join(self.host.disks) or "none"
            raise MachineError(f"{self.host.name} has no disk {serial}, but {known}")
        if self.is_on and serial not in self._failed:
            await self._break(serial, broken=True)
        self._failed.add(serial)

    async def heal(self, serial: str) -> None:
        """Have a disk that failed work again; nothing happens where it does."""
        if self.is_on and serial in self._failed:
            await self._break(serial, broken=False)
        self._failed.discard(serial)
