"""Requests that wait for a node: three queues, and whose turn it is.

High goes before normal, normal before low.  Where that goes on for long, those behind never
get a turn; so with relief, a queue that has grown to ``queue_relief_size``, or whose first
request has waited for ``queue_relief_age``, gets the turn in ``queue_relief_chance`` of 100
cases, low before normal.

A request may be for one node only (`sticking`).  Those have three queues for each node, and a
connection to that node takes the one that is more important of theirs and everybody's, or
has waited longer.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lj_services.perlbal.nodes import Node
    from lj_services.perlbal.proxy.exchange import Exchange


class Priority(enum.IntEnum):
    """Which queue a request waits in."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


_NAMES = {Priority.NORMAL: "normal", Priority.HIGH: "highpri", Priority.LOW: "lowpri"}

Three = tuple["deque[Exchange]", "deque[Exchange]", "deque[Exchange]"]


class Queues:
    """The queues of one service.

    Attributes:
        relief_size: requests in a queue at which relief begins; 0: not for that.
        relief_age: seconds that a queue's first has waited, the same.
        relief_chance: in percent.
        waiting: how many requests wait.
        free: how many of them may go to any node.
    """

    def __init__(self) -> None:
        self.relief_size = 0
        self.relief_age = 0
        self.relief_chance = 0
        self.free = 0
        self._free: Three = (deque(), deque(), deque())
        self._bound: dict[Node, Three] = {}
        self.waiting = 0

    def __len__(self) -> int:
        return self.waiting

    def push(self, exchange: Exchange) -> None:
        """Put a request behind those of its priority, for the same node or for any."""
        exchange.queued = True
        self.waiting += 1
        if exchange.node is None:
            self.free += 1
            self._free[exchange.priority].append(exchange)
        else:
            three = self._bound.get(exchange.node)
            if three is None:
                three = self._bound[exchange.node] = (deque(), deque(), deque())
            three[exchange.priority].append(exchange)

    def remove(self, exchange: Exchange) -> None:
        """Take a request out; harmless if it does not wait."""
        if exchange.queued:
            three = self._free if exchange.node is None else self._bound[exchange.node]
            three[exchange.priority].remove(exchange)
            self._out(exchange)

    def last_behind(self, priority: Priority) -> Exchange | None:
        """The request that came last to the lowest queue below `priority`; None without any."""
        for lower in range(Priority.LOW, priority, -1):
            last = [three[lower][-1] for three in self._all() if three[lower]]
            if last:
                return max(last, key=lambda exchange: exchange.asked_at)
        return None

    def pop(self, now: float = 0.0, node: Node | None = None) -> Exchange | None:
        """The request whose turn it is at loop time `now`, or None.

        Args:
            now: loop time.
            node: whose connection is free; requests for other nodes only are left.
        """
        if not self.waiting:
            return None
        three = self._free
        if self._bound and node is not None and (bound := self._bound.get(node)) is not None:
            three = min(bound, three, key=_rank) if self.free else bound
        elif not self.free:
            return None
        exchange = self._turn(three, now).popleft()
        self._out(exchange)
        return exchange

    def _out(self, exchange: Exchange) -> None:
        exchange.queued = False
        self.waiting -= 1
        if exchange.node is None:
            self.free -= 1
        elif not any(self._bound[exchange.node]):
            del self._bound[exchange.node]

    def _turn(self, three: Three, now: float) -> deque[Exchange]:
        """The queue whose turn it is; one of them must have something in it."""
        high, normal, low = three
        queue = high or normal or low
        if self.relief_chance and queue is not low:
            for behind in (low, normal):
                if (
                    behind is not queue
                    and self._relieved(behind, now)
                    and random.randrange(100) < self.relief_chance  # noqa: S311
                ):
                    return behind
        return queue

    def _relieved(self, queue: deque[Exchange], now: float) -> bool:
        """Whether relief has begun for a queue."""
        if not queue:
            return False
        if self.relief_size and len(queue) >= self.relief_size:
            return True
        return bool(self.relief_age) and now - queue[0].asked_at >= self.relief_age

    # -- requests for one node ------------------------------------------------------

    def bound(self) -> list[tuple[Node, int]]:
        """How many requests wait for one node only, for each such node."""
        return [(node, sum(map(len, three))) for node, three in self._bound.items()]

    def release(self, node: Node) -> None:
        """Let the requests that wait for a node go to any."""
        for exchange in [each for queue in self._bound.get(node, ()) for each in queue]:
            self.remove(exchange)
            exchange.node = None
            self.push(exchange)

    # -- all together ---------------------------------------------------------------

    def _all(self) -> Iterator[Three]:
        yield self._free
        yield from self._bound.values()

    def waited_since(self, before: float) -> list[Exchange]:
        """Those that have waited since loop time `before` or longer."""
        found = []
        for three in self._all():
            for queue in three:
                for exchange in queue:
                    if exchange.asked_at > before:
                        break
                    found.append(exchange)
        return found

    def figures(self, now: float) -> list[tuple[str, int, float]]:
        """Each queue's name, how many wait in it, and for how long the first has, in seconds."""
        figures = []
        for priority, name in _NAMES.items():
            queues = [three[priority] for three in self._all()]
            since = min((queue[0].asked_at for queue in queues if queue), default=now)
            figures.append((name, sum(map(len, queues)), now - since))
        return figures


def _rank(three: Three) -> tuple[int, float]:
    """How important the first of three queues is; less is more."""
    for priority, queue in enumerate(three):
        if queue:
            return priority, queue[0].asked_at
    return len(three), 0.0
