"""The selector: gives each request to another service, which need not listen by itself.

Which one is what plug-ins say (the hook point ``select_service``; Vhosts looks at the Host);
where none does, ``default_service``; where there is none, 404.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lj_services.perlbal.answering import Waiting
from lj_services.perlbal.service import BaseRole, Service

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection

MOST_HOPS = 8
"""Selectors that one request may pass; more of them is a circle."""


class SelectorRole(BaseRole):
    """A service that has others do the work."""

    def start(self, client: ClientConnection) -> None:
        """Give the request to the service that is to have it."""
        latency = self.service.parameters.latency
        if latency:
            client.exchange = waiting = _Delayed(self, client)
            handle = asyncio.get_running_loop().call_later(latency / 1000, waiting.over)
            waiting.handle = handle
        else:
            self.select(client)

    def select(self, client: ClientConnection) -> None:
        """Choose the service and hand the request over."""
        service = self._chosen(client)
        if service is None:
            client.error(404)
        elif client.hops >= MOST_HOPS:
            client.error(508, "Selectors point to each other in a circle.")
        else:
            client.hops += 1
            client.hand_over(service)

    def _chosen(self, client: ClientConnection) -> Service | None:
        chosen: Service | None = self.service.hooks.ask("select_service", client)
        if chosen is None and (name := self.service.parameters.default_service):
            chosen = self.service.balancer.services.get(name)
        return chosen


class _Delayed(Waiting):
    """A request that is being held up, as ``latency`` wants it."""

    def __init__(self, role: SelectorRole, client: ClientConnection) -> None:
        super().__init__("latency")
        self.role = role
        self.client = client
        self.handle: asyncio.TimerHandle | None = None
        self.pieces: list[bytes] = []
        self.whole = False
        self.size = 0

    def over(self) -> None:
        """Go on, with what has come in the meantime."""
        client = self.client
        client.exchange = None
        client.resume_reading()
        client.start_with(lambda: self.role.select(client), self.pieces, whole=self.whole)

    def body(self, data: bytes) -> None:
        """Hold a piece."""
        self.pieces.append(data)
        self.size += len(data)
        if self.size > 64 << 10:
            self.client.pause_reading()

    def body_done(self) -> None:
        """Remember that it was the last."""
        self.whole = True

    def client_gone(self) -> None:
        """Forget it."""
        if self.handle is not None:
            self.handle.cancel()
