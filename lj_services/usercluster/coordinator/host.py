"""What runs on a cluster's hosts: tells the coordinator how busy the disk under the data is."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from lj_services.daemon import ConfigError, HostPort
from lj_services.database import DatabaseError
from lj_services.usercluster.coordinator.client import Client
from lj_services.usercluster.coordinator.errors import CoordinatorError

log = logging.getLogger(__name__)

SMOOTHING = 0.3
"""The share of the newest second in what is told."""


def disk_under(folder: Path) -> str:
    """The disk, as psutil names it, that a folder is on.

    Raises:
        ConfigError: it is on none that the system counts (tmpfs, a network).
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
    known = ", ".join(sorted(counters)) or "none"
    raise ConfigError(f"the disk under {folder} is not known; name it: --disk ({known})")


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


class Host:
    """Measures a disk every second, and reports.

    Args:
        cluster: whose data is on it.
        disk: as psutil names it.
        locate: where the coordinator is; None: nobody knows at the moment.
        name: this host's.
    """

    def __init__(
        self,
        cluster: int,
        disk: str,
        locate: Callable[[], HostPort | None],
        name: str | None = None,
    ) -> None:
        self._cluster = cluster
        self._disk = disk
        self._locate = locate
        self._name = name or socket.gethostname()
        self._client: Client | None = None

    def run(self, stop: threading.Event, every_s: float = 1.0) -> None:
        """Report until told to stop.

        Raises:
            ConfigError: the disk can't be measured.
        """
        before, then = busy_ms(self._disk), time.monotonic()
        smooth: float | None = None
        while not stop.wait(every_s):
            now, at = busy_ms(self._disk), time.monotonic()
            busy = min(1.0, max(0.0, (now - before) / 1000 / (at - then)))
            before, then = now, at
            smooth = busy if smooth is None else (1 - SMOOTHING) * smooth + SMOOTHING * busy
            try:
                self._report(smooth)
            except (CoordinatorError, DatabaseError) as error:
                log.info("%s", error)
                self._hang_up()
        self._hang_up()

    def _report(self, busy: float) -> None:
        if self._client is None:
            address = self._locate()
            if address is None:
                return
            self._client = Client(address, timeout_s=5.0)
        self._client.call("load", cluster=self._cluster, host=self._name, busy=f"{busy:.3f}")

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
