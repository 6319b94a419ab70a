"""Requests that wait for a node: three queues, and whose turn it is.

High goes before normal, normal before low.  Where that goes on for long, those behind never
get a turn; so with relief, a queue that has grown to ``queue_relief_size``, or whose first
request has waited for ``queue_relief_age``, gets the turn in ``queue_relief_chance`` of 100
cases, low before normal.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lj_services.perlbal.proxy.exchange import Exchange


class Priority(enum.IntEnum):
    """Which queue a request waits in."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


_NAMES = {Priority.NORMAL: "normal", Priority.HIGH: "highpri", Priority.LOW: "lowpri"}


class Queues:
    """The three queues of one service.

    Attributes:
        relief_size: requests in a queue at which relief begins; 0: not for that.
        relief_age: seconds that a queue's first has waited, the same.
        relief_chance: in percent.
    """

    def __init__(self) -> None:
        self.relief_size = 0
        self.relief_age = 0
        self.relief_chance = 0
        self._queues: tuple[deque[Exchange], ...] = (deque(), deque(), deque())
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, exchange: Exchange) -> None:
        """Put a request behind those of its priority."""
        exchange.queued = True
        self._queues[exchange.priority].append(exchange)
        self._count += 1

    def remove(self, exchange: Exchange) -> None:
        """Take a request out; harmless if it does not wait."""
        if exchange.queued:
            exchange.queued = False
            self._queues[exchange.priority].remove(exchange)
            self._count -= 1

    def last_behind(self, priority: Priority) -> Exchange | None:
        """The request that waits last, in the lowest queue below `priority`; None without any."""
        for queue in self._queues[:priority:-1]:
            if queue:
                return queue[-1]
        return None

    def pop(self, now: float = 0.0) -> Exchange | None:
        """The request whose turn it is at loop time `now`, or None."""
        if not self._count:
            return None
        high, normal, low = self._queues
        queue = high or normal or low
        if self.relief_chance and queue is not low:
            for behind in (low, normal):
                if (
                    behind is not queue
                    and self._relieved(behind, now)
                    and random.randrange(100) < self.relief_chance  # noqa: S311
                ):
                    queue = behind
                    break
        exchange = queue.popleft()
        exchange.queued = False
        self._count -= 1
        return exchange

    def _relieved(self, queue: deque[Exchange], now: float) -> bool:
        """Whether relief has begun for a queue."""
        if not queue:
            return False
        if self.relief_size and len(queue) >= self.relief_size:
            return True
        return bool(self.relief_age) and now - queue[0].asked_at >= self.relief_age

    def waited_since(self, before: float) -> list[Exchange]:
        """Those that have waited since loop time `before` or longer."""
        found = []
        for queue in self._queues:
            for exchange in queue:
                if exchange.asked_at > before:
                    break
                found.append(exchange)
        return found

    def figures(self, now: float) -> list[tuple[str, int, float]]:
        """Each queue's name, how many wait in it, and for how long the first has, in seconds."""
        figures = []
        for priority, name in _NAMES.items():
            queue = self._queues[priority]
            figures.append((name, len(queue), now - queue[0].asked_at if queue else 0.0))
        return figures
