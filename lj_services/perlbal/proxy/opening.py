"""Opening connections to nodes, and counting them: what all who own connections have in common."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lj_services.perlbal.proxy.backend import Backend
from lj_services.perlbal.proxy.plain import PlainHeads
from lj_services.perlbal.proxy.progress import Progress

if TYPE_CHECKING:
    from lj_services.perlbal.nodes import Node
    from lj_services.perlbal.proxy.owner import Owner
    from lj_services.perlbal.service import Service


class Opener:
    """The connections of one owner.

    Args:
        service: whose.
        patience_s: how long a node may take to accept; None: somebody else looks.

    Attributes:
        backends: all of them.
        progress: who is told how far uploads are.
        plain: heads of requests about which nothing is unusual.
    """

    def __init__(self, service: Service, patience_s: float | None = None) -> None:
        self.service = service
        self.balancer = service.balancer
        self.parameters = service.parameters
        self.progress = Progress()
        self.plain = PlainHeads(service)
        self.backends: set[Backend] = set()
        self._patience_s = patience_s

    def open(self, owner: Owner, node: Node) -> Backend:
        """Begin to connect to a node; the owner is told what comes of it."""
        backend = Backend(owner, node, self.balancer.now)
        node.attempts += 1
        node.last_attempt = self.balancer.wall
        self.backends.add(backend)
        self.balancer.connections.add(backend)
        task = self._connect(owner, backend)
        backend.connecting = asyncio.get_running_loop().create_task(task)
        return backend

    async def _connect(self, owner: Owner, backend: Backend) -> None:
        address = backend.node.address
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._patience_s):
                await loop.create_connection(lambda: backend, address.ip, address.port)
        except OSError as error:
            owner.forget(backend)
            owner.connect_failed(backend, error.strerror or str(error))
        except asyncio.CancelledError:
            owner.forget(backend)
            raise

    def accepted(self, backend: Backend) -> None:
        """A node has accepted: count it."""
        backend.node.connects += 1
        backend.node.last_connect = self.balancer.wall

    def gone(self, backend: Backend) -> None:
        """A connection is gone: forget it."""
        self.backends.discard(backend)
        self.balancer.connections.discard(backend)

    def abort_all(self) -> None:
        """Close all connections at once."""
        for backend in list(self.backends):
            backend.abort()
        self.progress.close()
