"""One sync for all writers that wait for one: a database's group commit, across processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from mmap import mmap

_CONTEXT = multiprocessing.get_context("fork")
_BEGUN, _ENDED, _BUSY, _FAILED, _ERRNO, _WAITING = range(6)


class GroupSync:
    """Make it before the writers are started; all of them then call the same one.

    A caller is served by a sync that began after it asked; whoever finds none running
    becomes the leader and syncs, by a handle of its own, for all who wait.

    An error goes to everybody who may have met it: those whom that sync was for, and those
    who asked while it ran.  Their writes may have been under way to the disk when it failed,
    and the kernel tells each failure only once: the next sync would say that all is well.
    """

    def __init__(self) -> None:
        self._changed = _CONTEXT.Condition()
        self._state = memoryview(mmap(-1, 4096)).cast("Q")

    def __call__(self, sync: Callable[[], None]) -> None:
        """Return when all that the caller wrote is synced.

        :param sync: the caller's own sync, used if it becomes the leader.
        :raises OSError: the sync's, to all whom it concerns.
        """
        state = self._state
        with self._changed:
            wanted = state[_BEGUN] + 1
            concerns = state[_BEGUN] if state[_BUSY] else wanted
            while state[_ENDED] < wanted:
                if state[_BUSY]:
                    state[_WAITING] += 1
                    self._changed.wait()
                    state[_WAITING] -= 1
                else:
                    self._lead(sync)
            if state[_FAILED] >= concerns:
                raise OSError(state[_ERRNO], os.strerror(state[_ERRNO]))

    @property
    def waiting(self) -> int:
        """How many wait for a sync under way."""
        return self._state[_WAITING]

    def _lead(self, sync: Callable[[], None]) -> None:
        state = self._state
        state[_BUSY] = 1
        state[_BEGUN] += 1
        mine, failed = state[_BEGUN], 0
        self._changed.release()
        try:
            sync()
        except OSError as error:
            failed = error.errno or 5
        finally:
            self._changed.acquire()
            if failed:
                state[_FAILED], state[_ERRNO] = mine, failed
            state[_ENDED] = mine
            state[_BUSY] = 0
            self._changed.notify_all()
