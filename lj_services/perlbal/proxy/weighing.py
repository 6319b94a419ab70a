"""Weights: which node has the least to do for what it can, where a pool asks for that.

With ``SET pool.balance_method = weighted``, a request goes to the node with the fewest requests
for its weight; of several that have equally few, to one at random, in the ratio of their
weights.  Nobody waits for that: if the node that should have a request has no free connection,
another node's is used, and one to that node is opened for the next.

The default, ``random``, weighs nothing: whatever connection is free takes the request.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lj_services.perlbal.nodes import Node
    from lj_services.perlbal.proxy.backend import Backend


class Weights:
    """The nodes of a pool that is weighted, and what each of them is doing.

    Args:
        weights: of the nodes, 1 or more.
    """

    def __init__(self, weights: dict[Node, int]) -> None:
        self._weights = weights
        self._busy: Counter[Node] = Counter()
        self._counted: set[Backend] = set()

    def began(self, backend: Backend) -> None:
        """A connection has been given a request."""
        self._counted.add(backend)
        self._busy[backend.node] += 1

    def ended(self, backend: Backend) -> None:
        """A connection has no request any more, or is gone."""
        if backend in self._counted:
            self._counted.discard(backend)
            self._busy[backend.node] -= 1

    def _load(self, node: Node) -> tuple[float, float]:
        """How much a node has to do for its weight; and, of those that have as much, a lot.

        A lot of u^(1/w) is the highest in the ratio of the weights w, u being random (Efraimidis
        and Spirakis, "Weighted random sampling with a reservoir", 2006).
        """
        weight = self._weights.get(node, 1)
        lot: float = random.random() ** (1 / weight)  # noqa: S311
        return self._busy[node] / weight, -lot

    def order(self, nodes: Iterable[Node]) -> list[Node]:
        """Nodes, that with the least to do first."""
        return sorted(set(nodes), key=self._load)
