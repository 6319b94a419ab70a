"""Finds expired items without looking at the others: a hashed timing wheel.

The wheel has a fixed number of slots, each for one second of every round.  A
thing that expires in second s lies in slot s mod SLOTS.  As the clock passes a
second, its slot is emptied: what is due is given out, what belongs to a later
round goes back.  So a thing that lives on is looked at once in SLOTS seconds,
and a slot of a million things is emptied in steps of whatever size the caller
can afford.

A slot is a ring of the things themselves, doubly linked through a head: adding
and removing are O(1), and cost no memory beyond the two links that a thing has
anyway.  (Sets would keep the size of their fullest moment, 4096 times.)

Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987,
scheme 6.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar, cast

SLOTS: Final = 4096
"""Slots of the wheel; with one a second, a round takes 68 minutes."""


class Timer:
    """What can lie in the wheel, and the head of a slot's ring."""

    __slots__ = ("after", "before", "expires_at")

    def __init__(self) -> None:
        self.expires_at = 0.0
        """When it expires, in seconds of the caller's clock; fixed while it is in the wheel."""
        self.before: Timer | None = None
        self.after: Timer | None = None


T = TypeVar("T", bound=Timer)


def _head() -> Timer:
    head = Timer()
    head.before = head.after = head
    return head


def _insert(thing: Timer, head: Timer) -> None:
    """Put `thing` at the end of the ring of `head`."""
    last = cast(Timer, head.before)
    thing.before = last
    thing.after = head
    last.after = head.before = thing


def _unlink(thing: Timer) -> None:
    before, after = cast(Timer, thing.before), cast(Timer, thing.after)
    before.after = after
    after.before = before
    thing.before = thing.after = None


class TimingWheel(Generic[T]):
    """Things that expire, found when they do."""

    def __init__(self, now: float) -> None:
        """
        Args:
            now: the caller's clock, in seconds.
        """
        self._slots = [_head() for _ in range(SLOTS)]
        self._second = int(now)  # the first second that is not over yet
        self._passed = _head()  # what was in the slot of the newest second that is over

    def add(self, thing: T) -> None:
        """Put `thing` in."""
        # What is due before the wheel's second would lie a whole round in a slot that is over.
        _insert(thing, self._slots[max(int(thing.expires_at), self._second) % SLOTS])

    def discard(self, thing: T) -> None:
        """Take `thing` out, if it is there."""
        if thing.before is not None:
            _unlink(thing)

    def advance(self, now: float, most: int) -> tuple[list[T], bool]:
        """Take out what has expired.

        Args:
            now: the caller's clock, in seconds; never goes back.
            most: how many things and slots to look at, at most.

        Returns:
            What has expired by `now`, and whether there is more to look at.
        """
        due: list[T] = []
        passed = self._passed
        for _ in range(most):
            thing = cast(T, passed.after)
            if thing is not passed:
                _unlink(thing)
                if thing.expires_at <= now:
                    due.append(thing)
                else:
                    self.add(thing)
            elif self._second < int(now):
                slot = self._second % SLOTS
                self._passed = passed = self._slots[slot]
                self._slots[slot] = _head()
                self._second += 1
            else:
                return due, False
        return due, True
