"""The balancer as a daemon: what `lj_services.daemon.run_service` starts and ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import Final

from prometheus_client import REGISTRY

from lj_services.daemon import ConfigError, ConnectionLimits
from lj_services.daemon.listening import allow_open_files
from lj_services.perlbal import tls
from lj_services.perlbal.balancer import Balancer
from lj_services.perlbal.config import BalancerSettings
from lj_services.perlbal.errors import CommandError, ConfigFileError
from lj_services.perlbal.metrics import BalancerMetrics

TICK_S: Final = 0.25
"""How often time passes, in seconds."""
CONSOLE: Final = "management"
"""The service that is made where the configuration has no console."""

log = logging.getLogger(__name__)


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
        balancer = self.balancer
        balancer.now = self._loop.time()
        try:
            if self.settings.config is not None:
                balancer.load_file(self.settings.config)
            self._console()
            if balancer.pidfile is not None:
                balancer.pidfile.write_text(f"{os.getpid()}\n")
        except (ConfigFileError, CommandError) as error:
            raise ConfigError(str(error)) from None
        balancer.running = True
        allow_open_files(2 * self.settings.max_connections)
        self._metrics = BalancerMetrics(balancer)
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
            self.balancer.pidfile.unlink(missing_ok=True)

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
        """SHUTDOWN on the console: as SIGTERM, for a while; or at once."""
        self._at_once = not graceful
        log.info("shutdown was asked for", extra={"graceful": graceful, "seconds": seconds})
        self._loop.call_soon(signal.raise_signal, signal.SIGTERM)
        if graceful and seconds is not None:
            self._loop.call_later(seconds, signal.raise_signal, signal.SIGTERM)
