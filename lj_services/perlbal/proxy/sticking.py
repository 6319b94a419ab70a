"""Stickiness: clients that go to the same node each time, where a service asks for that.

- ``SET web.sticky_cookie = NAME``: the node that answers a client first is told to it in a cookie,
  as a digest of its address, and is asked again as long as the client sends it.
- ``SET web.sticky_address = on``: the node is chosen by the client's address, by rendezvous
  hashing: if a node comes or goes, only its own clients change.  A pool's weights count.

A node that fails, is unhealthy or has left the pool keeps nobody: its clients go to others.
Such requests wait for their node while it is busy (`queues`).

Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from lj_services.perlbal.proxy.cookies import values
from lj_services.perlbal.proxy.headers import observed_ip

if TYPE_CHECKING:
    from lj_services.perlbal.http.head import ResponseHead
    from lj_services.perlbal.nodes import Node
    from lj_services.perlbal.proxy.exchange import Exchange


class Sticking:
    """Which client belongs to which node.

    Attributes:
        cookie: the name, or nothing.
        by_address: whether addresses count.
        wanted: whether the service asks for either.
    """

    def __init__(self) -> None:
        self.cookie = ""
        self.by_address = False
        self.wanted = False
        self._weights: dict[Node, int] = {}
        self._by_mark: dict[bytes, Node] = {}

    def by(self, cookie: str, *, address: bool) -> None:
        """Go by a cookie of this name, unless it is empty, and by addresses or not."""
        self.cookie = cookie
        self.by_address = address
        self.wanted = bool(cookie) or address

    def use(self, weights: dict[Node, int]) -> None:
        """These are the pool's nodes, with their weights, from now on."""
        self._weights = weights
        self._by_mark = {mark(node): node for node in weights}

    def has(self, node: Node) -> bool:
        """Whether a node is in the pool."""
        return node in self._weights

    def node(self, exchange: Exchange, now: float) -> Node | None:
        """The node that a request must go to; None: any."""
        if self.cookie:
            for value in values(exchange.request, self.cookie):
                node = self._by_mark.get(value)
                if node is not None and node.usable(now):
                    return node
        if not self.by_address:
            return None
        client = exchange.client
        address = observed_ip(client.service, exchange.request, client.peer) or client.peer
        usable = [node for node in self._weights if node.usable(now)]
        return max(usable, key=lambda node: self._score(address, node), default=None)

    def _score(self, address: str, node: Node) -> float:
        digest = hashlib.blake2b(f"{address} {node.name}".encode(), digest_size=8).digest()
        share = (int.from_bytes(digest) + 1) / 2.0**64
        return self._weights[node] / -math.log(share) if share < 1 else math.inf

    def tell(self, exchange: Exchange, node: Node, response: ResponseHead) -> None:
        """Have the client remember its node, if it does not.

        The response is then for this client: a cache must not give it to others.
        """
        if mark(node) in values(exchange.request, self.cookie):
            return
        response.own()
        response.lines.append(
            b"Set-Cookie: %b=%b; Path=/; HttpOnly; SameSite=Lax"
            % (self.cookie.encode(), mark(node))
        )
        if b"cache-control" not in response.fields:
            response.set(b"Cache-Control", b"private")


def mark(node: Node) -> bytes:
    """What a node is called in a cookie: the same in all processes, and not its address."""
    return hashlib.blake2b(node.name.encode(), digest_size=8).hexdigest().encode()
