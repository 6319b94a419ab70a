"""Stats: counts what services do, and keeps how long the last requests took.

::

    LOAD stats
    SET web.plugins = stats

``stats`` on the console shows each service's counters and their sums::

    web             proxy_requests                     42
    web             proxy_requests_highpri              3
    web             files_reproxied                     0
    ...

``recent`` shows the last hundred requests that nodes have answered: seconds until the
response began, and the address.

Source: Perlbal::Plugin::Stats of Perlbal 1.80.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final

from lj_services.perlbal.language import Command
from lj_services.perlbal.plugin import Plugin
from lj_services.perlbal.proxy.queues import Priority

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.proxy.exchange import Exchange
    from lj_services.perlbal.service import Service

COUNTERS: Final = (
    "files_reproxied",
    "files_sent",
    "proxy_requests",
    "proxy_requests_highpri",
    "web_requests",
)
KEPT: Final = 100
_SIMPLE: Final = {
    "start_send_file": "files_sent",
    "start_file_reproxy": "files_reproxied",
    "start_web_request": "web_requests",
}
"""Points that are only counted."""


class Figures:
    """What one service has done."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.recent: deque[str] = deque(maxlen=KEPT)
        self.asked: dict[Exchange, float] = {}

    def counting(self, name: str) -> Any:
        """What counts under `name` and lets the request go on."""

        def count(*_arguments: object) -> bool:
            self.counters[name] += 1
            return False

        return count

    def assigned(self, exchange: Exchange, _lines: list[bytes]) -> bool:
        """A node is being given a request."""
        high = exchange.priority == Priority.HIGH
        self.counters["proxy_requests_highpri" if high else "proxy_requests"] += 1
        self.asked[exchange] = time.monotonic()
        return False

    def answered(self, exchange: Exchange, _response: object) -> bool:
        """The node's response has begun."""
        since = self.asked.pop(exchange, None)
        if since is not None:
            request = exchange.request
            host = request.host.decode("latin-1") or "unknown"
            took = time.monotonic() - since
            self.recent.append(f"{took:-6.4f} http://{host}{request.target.decode('latin-1')}")
        return False

    def ended(self, exchange: Exchange) -> None:
        """The request is over, with or without an answer."""
        self.asked.pop(exchange, None)


class Stats(Plugin):
    """The plug-in, for all services."""

    title = "Stats"

    def __init__(self) -> None:
        super().__init__()
        self.commands = {"stats": self._stats, "recent": self._recent}
        self._figures: dict[Service, Figures] = {}

    def register(self, service: Service) -> None:
        """Count for a service."""
        figures = self._figures.setdefault(service, Figures())
        hooks = service.hooks
        for point, name in _SIMPLE.items():
            hooks.register(self.name, point, figures.counting(name))
        hooks.register(self.name, "backend_client_assigned", figures.assigned)
        hooks.register(self.name, "backend_response_received", figures.answered)
        hooks.register(self.name, "end_proxy_request", figures.ended)

    def unregister(self, service: Service) -> None:
        """Forget a service's figures."""
        self._figures.pop(service, None)

    def _stats(self, _balancer: Balancer, command: Command) -> None:
        command.no_arguments()
        total: Counter[str] = Counter()
        for service, figures in self._figures.items():
            total += figures.counters
            _tell(command, service.name, figures.counters)
        _tell(command, "total", total)
        command.end()

    def _recent(self, _balancer: Balancer, command: Command) -> None:
        command.no_arguments()
        for service, figures in self._figures.items():
            for line in figures.recent:
                command.out(f"{service.name} {line}")
        command.end()


def _tell(command: Command, name: str, counters: Counter[str]) -> None:
    for counter in COUNTERS:
        command.out(f"{name:<15} {counter:<25} {counters[counter]:12d}")


plugin = Stats()
"""What LOAD takes; each balancer of a process shares it."""
