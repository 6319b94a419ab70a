"""The life of a daemon, from start to exit code.

::

    load settings -> start() -> READY ----SIGTERM/SIGINT----> drain() -> close() -> exit 0
                        |          \\--SIGHUP--> load again, reload(settings)
                        fails: exit 6

The rules:

- `start` returns when clients can connect; only then is systemd told.
- `drain` stops accepting and finishes what is in flight.  It is cancelled after
  ``drain_timeout_s`` seconds, or by a second SIGTERM; then the exit code is 1,
  so that an operator sees that something was cut off.
- `close` always runs, and runs last.  A signal to stop that comes still later
  changes nothing: the exit code tells how the work ended.
- a reload that fails keeps the settings that were there, and says why in the log.
- health is bad before `start` has returned and from the first moment of draining
  on, so that a load balancer looks elsewhere early.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, runtime_checkable

from prometheus_client import REGISTRY, CollectorRegistry

from lj_services.daemon.config import ConfigError, ServiceSettings
from lj_services.daemon.log import configure_logging
from lj_services.daemon.metrics import MetricsServer

new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with contextlib.suppress(ImportError):  # there is no wheel for every platform
    import uvloop

    new_event_loop = uvloop.new_event_loop

log = logging.getLogger(__name__)

STOPS = (signal.SIGTERM, signal.SIGINT)


class ExitCode(enum.IntEnum):
    """Exit codes of `lj`, daemons and commands alike."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 3
    UNKNOWN = 4
    REFUSED = 5
    UNREACHABLE = 6


S_contra = TypeVar("S_contra", bound=ServiceSettings, contravariant=True)
S = TypeVar("S", bound=ServiceSettings)


class Service(Protocol[S_contra]):
    """What a daemon does, free of signals, files and exit codes."""

    async def start(self) -> None:
        """Open everything and accept clients.

        Raises:
            OSError: an address can't be bound, or a peer that is needed is away.
            ConfigError: what is only read here, in a language of the service's own, is wrong.
        """

    async def drain(self) -> None:
        """Stop accepting; return when what is in flight is finished."""

    async def close(self) -> None:
        """Give everything back, whatever is still going on."""

    def reload(self, settings: S_contra) -> None:
        """Take over the settings that can change in a running daemon."""


@runtime_checkable
class Listens(Protocol):
    """A service whose addresses are told by something else than ``settings.listen``."""

    @property
    def listens_on(self) -> str:
        """Its addresses, for the log."""


def notify_systemd(state: str) -> None:
    """Send `state` (``READY=1``, ``STOPPING=1`` ...) to the service manager, if there is one.

    Source: sd_notify(3).
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), address)
        except OSError as error:
            log.warning("can't tell the service manager", extra={"state": state, "error": error})


def run_service(
    name: str,
    make_service: Callable[[S], Service[S]],
    load: Callable[[], S],
    registry: Callable[[S], CollectorRegistry] = lambda _settings: REGISTRY,
) -> ExitCode:
    """Run a daemon until it is told to stop.

    Args:
        name: the system's name, for logs (``memcached``).
        make_service: makes the service from its settings; called inside the event loop.
        load: reads the settings, at the start and again on SIGHUP.
        registry: whose figures ``metrics_listen`` shows; the process's own unless given.

    Returns:
        DONE after a clean drain, FAILED when work had to be cut off, CONFIG for
        bad settings, UNREACHABLE when it can't start.
    """
    try:
        settings = load()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return ExitCode.CONFIG
    configure_logging(settings.log_format, settings.log_level)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        code = runner.run(_Life(name, settings, load, registry(settings)).run(make_service))
    for number in STOPS:  # the interpreter still has to end, and would die of them meanwhile
        signal.signal(number, signal.SIG_IGN)
    return code


class _Life(Generic[S]):
    """One run of one service: where it stands between start and exit."""

    def __init__(
        self, name: str, settings: S, load: Callable[[], S], registry: CollectorRegistry
    ) -> None:
        self.registry = registry
        self.name = name
        self.settings = settings
        self.load = load
        self.unhealthy: str | None = "starting"
        self.stop_signals = 0
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()

    async def run(self, make_service: Callable[[S], Service[S]]) -> ExitCode:
        loop = asyncio.get_running_loop()
        for number in STOPS:
            loop.add_signal_handler(number, self.on_stop)
        metrics: MetricsServer | None = None
        service: Service[S] | None = None
        try:
            if self.settings.metrics_listen is not None:
                metrics = MetricsServer(
                    self.settings.metrics_listen, lambda: self.unhealthy, self.registry
                )
            service = make_service(self.settings)
            await service.start()
        except (OSError, ConfigError) as error:
            log.error("can't start: %s", error, extra={"service": self.name})
            if service is not None:
                await service.close()
            if metrics is not None:
                metrics.close()
            refused = isinstance(error, ConfigError)
            return ExitCode.CONFIG if refused else ExitCode.UNREACHABLE
        loop.add_signal_handler(signal.SIGHUP, self.on_reload, service)
        self.unhealthy = None
        notify_systemd("READY=1")
        log.info("ready", extra={"service": self.name, "listen": self.listens_on(service)})
        try:
            await self.stopping.wait()
            self.unhealthy = "draining"
            notify_systemd("STOPPING=1")
            return await self.drain(service)
        finally:
            await service.close()
            if metrics is not None:
                metrics.close()

    def listens_on(self, service: Service[S]) -> str:
        if isinstance(service, Listens):
            return service.listens_on
        return str(getattr(self.settings, "listen", "nowhere"))

    def on_stop(self) -> None:
        self.stop_signals += 1
        self.stopping.set()
        if self.stop_signals > 1:
            self.hurry.set()

    def on_reload(self, service: Service[S]) -> None:
        notify_systemd(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            settings = self.load()
            service.reload(settings)
        except ConfigError as error:
            log.error("reload refused, the old settings stay: %s", error)
        else:
            configure_logging(settings.log_format, settings.log_level)
            self.settings = settings
            log.info("reloaded", extra={"service": self.name})
        notify_systemd("READY=1")

    async def drain(self, service: Service[S]) -> ExitCode:
        log.info("draining", extra={"timeout_s": self.settings.drain_timeout_s})
        draining = asyncio.ensure_future(service.drain())
        hurry = asyncio.ensure_future(self.hurry.wait())
        await asyncio.wait(
            {draining, hurry},
            timeout=self.settings.drain_timeout_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        hurry.cancel()
        if draining.done():
            draining.result()
            log.info("stopped", extra={"service": self.name})
            return ExitCode.DONE
        draining.cancel()
        log.warning("stopped with work in flight", extra={"service": self.name})
        return ExitCode.FAILED
