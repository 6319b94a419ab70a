"""The balancer as a daemon: what `lj_services.daemon.run_service` starts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import Final

from prometheus_client import REGISTRY

from lj_services.daemon import ConfigError, ConnectionLimits, drop_privileges
from lj_services.daemon.listening import allow_open_files
from lj_services.perlbal import tls
from lj_services.perlbal.balancer import Balancer, read_config
from lj_services.perlbal.config import BalancerSettings
from lj_services.perlbal.errors import CommandError, ConfigFileError
from lj_services.perlbal.metrics import BalancerMetrics

TICK_S: Final = 0.25
"""How often time passes, in seconds."""
CONSOLE: Final = "management"
"""The service that is made where the configuration has no console."""

log = logging.getLogger(__name__)


def configuration(settings: BalancerSettings) -> tuple[str, str]:
    """The text of the configuration file, and its name; nothing, if there is none.

    Raises:
        ConfigError: it can't be read.
    """
    if settings.config is None:
        return "", ""
    try:
        return read_config(settings.config), str(settings.config)
    except ConfigFileError as error:
        raise ConfigError(str(error)) from None


def write_pidfile(file: Path) -> None:
    """Write this process's id.  Raises ConfigError if that can't be done."""
    try:
        file.write_text(f"{os.getpid()}\n")
    except OSError as error:
        raise ConfigError(f"pidfile {file}: {error.strerror}; name another one") from None


def remove_pidfile(file: Path) -> None:
    """Remove it; who has given up root may not be allowed to, and leaves it."""
    with contextlib.suppress(PermissionError):
        file.unlink(missing_ok=True)


def end(loop: asyncio.AbstractEventLoop, graceful: bool, seconds: float | None) -> None:
    """End this process because a console says SHUTDOWN: as SIGTERM, for a while; or at once.

    Args:
        loop: that runs it.
        graceful: whether what is going on may finish.
        seconds: for how long; None: as long as any end may take.
    """
    log.info("shutdown was asked for", extra={"graceful": graceful, "seconds": seconds})
    loop.call_soon(signal.raise_signal, signal.SIGTERM)
    if graceful and seconds is not None:
        loop.call_later(seconds, signal.raise_signal, signal.SIGTERM)


class PerlbalService:
    """One balancer, from its configuration file to its last client."""

    def __init__(self, settings: BalancerSettings) -> None:
        self.settings = settings
        self._loop = asyncio.get_running_loop()
        limits = ConnectionLimits("perlbal", settings.max_connections, settings.idle_timeout_s)
        self.balancer = Balancer(limits, settings.plugin_path, shut_down=self._shut_down)
        self._metrics: BalancerMetrics | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._at_once = False

    async def start(self) -> None:
        """Carry out the configuration.

        Raises:
            ConfigError: a line of it is refused; an address that can't be bound is one reason.
        """
        self.load(*configuration(self.settings))
        balancer = self.balancer
        if balancer.pidfile is not None:
            write_pidfile(balancer.pidfile)
        self.go()

    def load(self, text: str, name: str) -> None:
        """Carry out a configuration; `name` is where it is from.

        Raises:
            ConfigError: a line of it is refused.
        """
        self.balancer.now = self._loop.time()
        try:
            self.balancer.load_text(text, name)
            self._console()
        except (ConfigFileError, CommandError) as error:
            raise ConfigError(str(error)) from None

    def go(self) -> None:
        """All is bound: give up root, show figures, let time pass.

        Raises:
            ConfigError: the user can't be had.
        """
        allow_open_files(2 * self.settings.max_connections)
        drop_privileges(self.settings.user, self.settings.group)
        self.balancer.running = True
        self._metrics = BalancerMetrics(self.balancer)
        REGISTRY.register(self._metrics)
        self._tick()

    def _console(self) -> None:
        balancer = self.balancer
        for service in balancer.services.values():
            if service.parameters.role == "management" and service.enabled:
                return
        balancer.create_service(CONSOLE)
        service = balancer.services[CONSOLE]
        service.set("role", "management")
        service.set("listen", str(self.settings.listen))
        service.enable()

    @property
    def listens_on(self) -> str:
        """The addresses of all services."""
        services = self.balancer.services.values()
        return ", ".join(str(one.parameters.listen) for one in services if one.listener is not None)

    async def drain(self) -> None:
        """Take no more requests, and wait for those that are going on."""
        self.balancer.drain()
        if not self._at_once:
            await self._empty.wait()

    async def close(self) -> None:
        """Cut off who is left."""
        if self._ticker is not None:
            self._ticker.cancel()
        if self._metrics is not None:
            REGISTRY.unregister(self._metrics)
        self.balancer.limits.close_all()
        self.balancer.close()
        if self.balancer.running and self.balancer.pidfile is not None:
            remove_pidfile(self.balancer.pidfile)

    def reload(self, settings: BalancerSettings) -> None:
        """Read certificates and node files again; what else changes is told on the console.

        Raises:
            ConfigError: certificates can't be used; the old ones stay.
        """
        self.balancer.limits.max_connections = settings.max_connections
        self.balancer.limits.idle_timeout_s = settings.idle_timeout_s
        try:
            tls.reload(self.balancer.services.values())
        except CommandError as error:
            raise ConfigError(f"certificates stay as they were: {error}") from None
        for pool in self.balancer.pools.values():
            pool.check_nodefile()

    def _tick(self) -> None:
        self.balancer.tick(self._loop.time())
        if self.balancer.draining and not self.balancer.clients:
            self._empty.set()
        self._ticker = self._loop.call_later(TICK_S, self._tick)

    def _shut_down(self, graceful: bool, seconds: float | None) -> None:
        self._at_once = not graceful
        end(self._loop, graceful, seconds)
