"""Finds expired items without looking at the others: a hashed timing wheel.

The wheel has a fixed number of slots, each for one second of every round.  A
thing that expires in second s lies in slot s mod SLOTS; adding and removing it
is O(1).  As the clock passes a second, its slot is emptied: what is due is
given out, what belongs to a later round goes back.  So a thing that lives on is
looked at once in SLOTS seconds, and a slot of a million things is emptied in
steps of whatever size the caller can afford.

Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987,
scheme 6.
"""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar

SLOTS: Final = 4096
"""Slots of the wheel; with one a second, a round takes 68 minutes."""

BYTES_PER_ENTRY: Final = 64
"""What an entry costs in its slot: 16 bytes at the load a set has after it has grown."""


class Expiring(Protocol):
    """What can lie in the wheel; hashed by identity."""

    expires_at: float
    """When it expires, in seconds of the caller's clock."""


T = TypeVar("T", bound=Expiring)


class TimingWheel(Generic[T]):
    """Things that expire, found when they do."""

    def __init__(self, now: float) -> None:
        """
        Args:
            now: the caller's clock, in seconds.
        """
        self._slots: list[set[T]] = [set() for _ in range(SLOTS)]
        self._second = int(now)  # the first second that is not over yet
        self._passed: set[T] = set()  # what was in slots whose second is over

    def add(self, thing: T) -> None:
        """Put `thing` in; its `expires_at` must not change while it is there."""
        # What is due before the wheel's second would lie a whole round in a slot that is over.
        self._slots[max(int(thing.expires_at), self._second) % SLOTS].add(thing)

    def discard(self, thing: T) -> None:
        """Take `thing` out, if it is there."""
        self._slots[max(int(thing.expires_at), self._second) % SLOTS].discard(thing)
        self._passed.discard(thing)

    def advance(self, now: float, most: int) -> tuple[list[T], bool]:
        """Take out what has expired.

        Args:
            now: the caller's clock, in seconds; never goes back.
            most: how many things to look at, at most.

        Returns:
            What has expired by `now`, and whether there is more to look at.
        """
        due: list[T] = []
        while most > 0:
            if not self._passed:
                if self._second >= int(now):
                    return due, False
                slot = self._second % SLOTS
                self._second += 1
                self._passed, self._slots[slot] = self._slots[slot], set()
                most -= 1
                continue
            thing = self._passed.pop()
            most -= 1
            if thing.expires_at <= now:
                due.append(thing)
            else:
                self.add(thing)
        return due, True
