"""What runs on clusters' hosts: tells the coordinator how busy and how full their disks are.

A `Host` has a `Meter` for each cluster whose data is there.  A folder that is not there has nothing
to tell: on the idle side of a pair it is not mounted.  When it appears, its disk is looked up.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from lj_services.daemon import ConfigError, HostPort
from lj_services.database import DatabaseError
from lj_services.usercluster.coordinator.client import Client
from lj_services.usercluster.coordinator.errors import CoordinatorError, OrderRefused
from lj_services.usercluster.disks import Disk, local_disk

log = logging.getLogger(__name__)

SMOOTHING = 0.3
"""The share of the newest second in what is told."""


def disk_under(folder: Path) -> str | None:
    """The disk, as psutil names it, that a folder is on; None: the system counts none there.

    Overlays, tmpfs and file systems of other hosts are on no disk.
    """
    number = folder.stat().st_dev
    counters = psutil.disk_io_counters(perdisk=True) or {}
    for part in psutil.disk_partitions(all=True):
        name = Path(part.device).resolve().name
        try:
            if name in counters and Path(part.mountpoint).stat().st_dev == number:
                return name
        except OSError:
            continue
    return None


def busy_ms(disk: str) -> int:
    """Milliseconds that a disk has been busy since the system started.

    Raises:
        ConfigError: there is no such disk, or the system does not count.
    """
    counters = psutil.disk_io_counters(perdisk=True) or {}
    if disk not in counters:
        raise ConfigError(f"there is no disk {disk}; there are: {', '.join(sorted(counters))}")
    found = getattr(counters[disk], "busy_time", None)
    if found is None:
        raise ConfigError("this system does not count how long disks are busy")
    return int(found)


@dataclass(frozen=True, slots=True)
class Load:
    """How one cluster's disk is.

    Attributes:
        busy: share of the time that it is busy, 0 to 1, smoothed; None: not known (yet).
        space: how large and how full it is.
    """

    busy: float | None
    space: Disk


class Meter:
    """Measures the disk under one cluster's data.

    Args:
        folder: where the data is.
        disk: the disk under it, as psutil names it; None: found by the folder.

    Raises:
        ConfigError: a disk that was named can't be measured.
    """

    def __init__(self, folder: Path, disk: str | None = None) -> None:
        self._folder = folder
        self._named = disk
        self._disk: str | None = None
        self._device: int | None = None
        self._before: tuple[int, float] | None = None
        self._smooth: float | None = None
        if disk is not None:
            busy_ms(disk)

    def measure(self, now: float) -> Load | None:
        """Look at the disk; None: there is no data here now.

        Args:
            now: the caller's clock, in seconds.
        """
        space = local_disk(self._folder)
        if space is None:
            self._forget()
            return None
        try:
            device = self._folder.stat().st_dev
            if device != self._device:
                self._forget()
                self._device = device
                self._disk = self._named or disk_under(self._folder)
                if self._disk is None:
                    log.warning(
                        "the disk under %s is not known: how busy it is can't be told; "
                        "name it with --disk",
                        self._folder,
                    )
        except OSError:  # unmounted this moment
            self._forget()
            return None
        return Load(None if self._disk is None else self._busy(self._disk, now), space)

    def _busy(self, disk: str, now: float) -> float | None:
        spent = busy_ms(disk)
        before, self._before = self._before, (spent, now)
        if before is None or now <= before[1]:
            return self._smooth
        busy = min(1.0, max(0.0, (spent - before[0]) / 1000 / (now - before[1])))
        last = self._smooth
        self._smooth = busy if last is None else (1 - SMOOTHING) * last + SMOOTHING * busy
        return self._smooth

    def _forget(self) -> None:
        self._disk = self._device = self._before = self._smooth = None


class Host:
    """Measures disks every second, and reports.

    Args:
        meters: cluster -> what measures its disk.
        locate: where the coordinator is; None: nobody knows at the moment.
        name: this host's.
    """

    def __init__(
        self,
        meters: Mapping[int, Meter],
        locate: Callable[[], HostPort | None],
        name: str | None = None,
    ) -> None:
        self._meters = meters
        self._locate = locate
        self._name = name or socket.gethostname()
        self._client: Client | None = None
        self._refused: dict[int, str] = {}

    def run(self, stop: threading.Event, every_s: float = 1.0) -> None:
        """Report until told to stop.

        Raises:
            ConfigError: a disk can't be measured.
        """
        while not stop.wait(every_s):
            for cluster, meter in self._meters.items():
                load = meter.measure(time.monotonic())
                if load is None:
                    continue
                try:
                    self._report(cluster, load)
                except OrderRefused as error:
                    if self._refused.get(cluster) != str(error):  # said once, not every second
                        log.warning("cluster %s: %s", cluster, error)
                    self._refused[cluster] = str(error)
                except (CoordinatorError, DatabaseError) as error:
                    log.info("%s", error)
                    self._hang_up()
                    break
        self._hang_up()

    def _report(self, cluster: int, load: Load) -> None:
        if self._client is None:
            address = self._locate()
            if address is None:
                return
            self._client = Client(address, timeout_s=5.0)
            log.info("reporting to the coordinator at %s", address)
        busy = {} if load.busy is None else {"busy": f"{load.busy:.3f}"}
        space = load.space
        self._client.call(
            "load",
            cluster=cluster,
            host=self._name,
            **busy,
            free=space.free,
            total=space.total,
            device=space.device,
        )

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
