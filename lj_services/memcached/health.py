"""Which servers are left out, and for how long.

A server that can't be reached, or doesn't answer in time, is *dead* for
`retry_s` and up to half as much again (at random: the programs of a site don't
all come back in the same second).  When that time is over it is *due*: the first
thread that has something for it claims it (`claim`), which keeps it dead for
everybody else while that one thread tries.  So a server that is still dead costs
one thread one timeout, not all threads.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from lj_services.memcached.errors import Fault
from lj_services.memcached.rings import Server

log = logging.getLogger(__name__)

_NONE: frozenset[int] = frozenset()


class Health:
    """The dead among a client's servers, known by their index."""

    def __init__(
        self,
        servers: Sequence[Server],
        retry_s: float,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """
        Args:
            servers: for the log lines.
            retry_s: seconds that a server is left out at least.
            clock: seconds, monotonic.
            jitter: a number in 0..1, drawn each time a server is left out.
        """
        self._servers = servers
        self._retry_s = retry_s
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()
        self._due_at: dict[int, float] = {}

    def dead(self) -> frozenset[int]:
        """The servers that are not to be tried now."""
        if not self._due_at:
            return _NONE
        now = self._clock()
        with self._lock:
            return frozenset(index for index, due in self._due_at.items() if now < due)

    def claim(self, index: int) -> bool:
        """Whether the caller may try a server that is not in `dead`.

        For one that was dead and is due only one caller is told yes.
        """
        if index not in self._due_at:
            return True
        now = self._clock()
        with self._lock:
            due = self._due_at.get(index)
            if due is None:
                return True
            if now < due:
                return False
            self._due_at[index] = now + self._pause()
            return True

    def failed(self, index: int, fault: Fault) -> None:
        """Leave a server out."""
        with self._lock:
            again = index in self._due_at
            pause = self._pause()
            self._due_at[index] = self._clock() + pause
        log.log(
            logging.DEBUG if again else logging.WARNING,
            "memcached server left out for %.1f s: %s",
            pause,
            fault,
        )

    def answered(self, index: int) -> None:
        """Take a server in again."""
        if index not in self._due_at:
            return
        with self._lock:
            if self._due_at.pop(index, None) is None:
                return
        log.warning("memcached server %s answers again", self._servers[index])

    def _pause(self) -> float:
        return self._retry_s * (1 + self._jitter() / 2)
