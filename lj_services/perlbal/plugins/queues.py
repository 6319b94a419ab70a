"""Queues: tells nodes how many requests wait, so that they can do less for each.

::

    LOAD queues
    SET web.plugins = queues

Each request for a node gets ``X-Queue-Count`` and ``X-Queue-Age`` (how long the first in the
normal queue has waited, in whole seconds), and the same of the high queue as
``X-HP-Queue-Count`` and ``X-HP-Queue-Age``.  What a client says under these names is replaced.

Source: Perlbal::Plugin::Queues of Perlbal 1.80.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lj_services.perlbal.plugin import Plugin, put
from lj_services.perlbal.proxy.role import ProxyRole

if TYPE_CHECKING:
    from lj_services.perlbal.proxy.exchange import Exchange
    from lj_services.perlbal.service import Service

_PREFIXES = {"normal": b"X-", "highpri": b"X-HP-"}


class Queues(Plugin):
    """The plug-in, for all services."""

    title = "Queues"

    def register(self, service: Service) -> None:
        """Add to a service's requests."""
        service.hooks.register(self.name, "backend_client_assigned", _tell)


def _tell(exchange: Exchange, lines: list[bytes]) -> None:
    role = exchange.client.service.role
    if not isinstance(role, ProxyRole):
        return
    for name, count, age in role.queues.figures(role.balancer.now):
        prefix = _PREFIXES.get(name)
        if prefix is not None:
            put(lines, prefix + b"Queue-Count", b"%d" % count)
            put(lines, prefix + b"Queue-Age", b"%d" % age)


plugin = Queues()
"""What LOAD takes; each balancer of a process shares it."""
