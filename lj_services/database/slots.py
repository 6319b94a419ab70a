"""Whose turn it is for a connection: first come, first served.

SQLAlchemy's pool waits too, but without an order: a thread that gives a connection
back and wants one again is quicker than one that has to wake up first, and the
waiting one may starve; with SQLite's one writer it does.  Here a slot that is given
back goes straight to whoever has waited longest.
"""

from __future__ import annotations

import threading
from collections import deque


class Slots:
    """A number of slots, handed out in the order of asking; thread-safe.

    Args:
        count: how many there are.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()

    def acquire(self, timeout_s: float) -> bool:
        """Take a slot; False if none was had in `timeout_s` seconds."""
        with self._lock:
            if self._free and not self._waiting:
                self._free -= 1
                return True
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(timeout_s):
            return True
        with self._lock:
            if turn.is_set():  # it came in this very moment
                return True
            self._waiting.remove(turn)
            return False

    def release(self) -> None:
        """Give a slot back."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1
