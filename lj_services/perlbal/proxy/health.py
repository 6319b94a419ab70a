"""Nodes are asked for a sign of health now and then, whether or not anybody wants them.

Off unless ``health_check_path`` is set.  Every ``health_check_interval`` seconds each node of
the pool is asked for that path over a connection of its own.  Anything but an answer with a
status from 200 to 399 in `PATIENCE_S` seconds, `FALL` times in a row, and the node gets no
requests (`Node.unhealthy`): those that it has are finished, kept connections are closed.  The
first good answer ends that.  So a node can be taken out by what it answers there, before it is
stopped; and one that hangs is found without a client that waits.

Services that share a node share what is known of it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.http.errors import BadMessage
from lj_services.perlbal.http.parse import parse_response
from lj_services.perlbal.nodes import Node

if TYPE_CHECKING:
    from lj_services.perlbal.proxy.connections import Connections

PATIENCE_S: Final = 5.0
FALL: Final = 2
"""Bad answers in a row that make a node unhealthy."""

log = logging.getLogger(__name__)


class Health:
    """The checks of one reverse proxy's nodes.

    Args:
        owner: whose pool's nodes are asked.
    """

    def __init__(self, owner: Connections) -> None:
        self._owner = owner
        self._next = 0.0
        self._failed: dict[Node, int] = {}
        self._asking: dict[Node, asyncio.Task[None]] = {}

    def tick(self, now: float) -> None:
        """Ask all nodes, if it is time."""
        parameters = self._owner.parameters
        pool = self._owner.pool
        if not parameters.health_check_path or pool is None or now < self._next:
            return
        self._next = now + max(parameters.health_check_interval, 1)
        nodes = {self._owner.balancer.nodes.get(address) for address in pool.nodes}
        for gone in set(self._failed) - nodes:
            self._known_good(gone)
        for node in nodes - set(self._asking):
            self._failed.setdefault(node, 0)
            task = asyncio.get_running_loop().create_task(self._check(node))
            self._asking[node] = task

    def changed(self) -> None:
        """Other nodes, or another path: what was found out counts no more."""
        self.close()
        for node in list(self._failed):
            self._known_good(node)
        self._next = 0.0

    def close(self) -> None:
        """Ask no more."""
        for task in self._asking.values():
            task.cancel()
        self._asking.clear()

    async def _check(self, node: Node) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                why = await _ask(node, self._owner.parameters.health_check_path)
        except (OSError, BadMessage) as error:
            why = str(error) or "it does not answer"
        self._asking.pop(node, None)
        if not why:
            self._failed[node] = 0
            if node.unhealthy:
                node.unhealthy = False
                node.succeeded()
                log.info("node is healthy again", extra={"node": node.name})
                self._owner.spawn()
            return
        self._failed[node] = failed = self._failed.get(node, 0) + 1
        if failed >= FALL and not node.unhealthy:
            node.unhealthy = True
            log.warning("node is unhealthy: %s", why, extra={"node": node.name})
            for backend in [each for each in self._owner.bored if each.node is node]:
                backend.close()

    def _known_good(self, node: Node) -> None:
        node.unhealthy = False
        self._failed.pop(node, None)


async def _ask(node: Node, path: str) -> str:
    """What is wrong with a node; empty: nothing.  Raises OSError or BadMessage."""
    reader, writer = await asyncio.open_connection(node.address.ip, node.address.port)
    try:
        question = f"GET {path} HTTP/1.1\r\nHost: {node.name}\r\nConnection: close\r\n\r\n"
        writer.write(question.encode())
        data = b""
        while (parsed := parse_response(data, b"GET")) is None:
            more = await reader.read(1 << 16)
            if not more:
                return "it closes without an answer"
            data += more
        status = parsed[0].status
        return "" if 200 <= status < 400 else f"it answers {status}"
    finally:
        writer.close()
