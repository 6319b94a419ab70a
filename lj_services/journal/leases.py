"""Keeps old values out of a cache that readers fill: leases and marks.

A reader that misses fills the value from the database.  Without care, a fill that read the
database before a change could reach the cache after the change's delete, and the old value
would stay.  So:

- A reader that misses first puts a *lease* under the key: ``add(key, LEASE)``, then ``gets``,
  which gives the lease's cas number (`Leases.take`).  Only then does it read the database, and
  it stores by ``cas`` with that number.
- A writer puts a *mark* there before its transaction, and after the commit a new lease in its
  place (`Leases.changing`).  That has another cas number than all before it: what was read
  before the commit fails to be stored.  Nothing at all is stored over a mark.

Changes overlap.  The mark therefore names everyone who is at it; each adds and takes away its
own name by ``cas``, and only the last one puts the lease there.  A writer that is killed
between its commit and the end leaves its name, and so does one that can't tell whether its
commit was done (`CommitUnknown`): the commit may still come.  A name carries the time at which
it is void, so that the changes of a busy user don't keep it for ever; marks and leases expire
by themselves.

What is left: an old value may stay for as long as values live when the cache loses a mark, or
can't be reached, while a change is on, and that change's writer then doesn't come to its end
either.

Source: R. Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013, section 3.2.1 (leases).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from lj_services.database import CommitUnknown
from lj_services.memcached.client import CasResult, Client
from lj_services.memcached.keys import Key

LEASE: Final = b"lease"
"""What lies under a key while a reader fetches its value."""
LEASE_S: Final = 10
"""Seconds that a lease is good for."""
CHANGING: Final = b"changing"
"""How a mark begins; ``name@time`` of each change follows."""
CHANGING_S: Final = 60
"""Seconds after which a change that has not ended is no longer waited for."""
ATTEMPTS: Final = 20

Names = list[bytes]


class Leases:
    """Leases and marks in one cache.

    Args:
        cache: where the values are.
    """

    def __init__(self, cache: Client) -> None:
        self._cache = cache

    def take(self, key: Key) -> Any:
        """Ask to fill a value, before it is read from the database.

        Returns:
            the cas number to store it by; None when it must not be stored now.
        """
        self._cache.add(key, LEASE, LEASE_S)
        held = self._cache.gets(key)
        return held[1] if held is not None and held[0] == LEASE else None

    @contextmanager
    def changing(self, key: Key) -> Iterator[None]:
        """Around the transaction that changes what the value under a key must be.

        The block's errors pass through.  After `CommitUnknown` the mark stays until it expires.
        """
        name = b"%b@%d" % (secrets.token_hex(8).encode(), int(time.time()) + CHANGING_S)
        self._mark(key, name)
        try:
            yield
        except CommitUnknown:
            raise  # the commit may come after a fill that an end would let in
        except BaseException:
            self._end(key, name)
            raise
        self._end(key, name)

    def _mark(self, key: Key, name: bytes) -> None:
        for _ in range(ATTEMPTS):
            held = self._cache.gets(key)
            mark = _mark([*_names(held), name])
            if held is None:
                if self._cache.add(key, mark, CHANGING_S):
                    return
            elif not _overtaken(self._cache.cas(key, mark, held[1], CHANGING_S)):
                return
        self._cache.set(key, _mark([name]), CHANGING_S)

    def _end(self, key: Key, name: bytes) -> None:
        for _ in range(ATTEMPTS):
            held = self._cache.gets(key)
            if held is None:
                return  # nothing is there, and a lease that was will not be found again
            others = [other for other in _names(held) if other != name]
            value, expire_s = (_mark(others), CHANGING_S) if others else (LEASE, LEASE_S)
            if not _overtaken(self._cache.cas(key, value, held[1], expire_s)):
                return
        self._cache.delete(key)


def _overtaken(result: CasResult) -> bool:
    return result in (CasResult.EXISTS, CasResult.NOT_FOUND)


def _mark(names: Names) -> bytes:
    return b" ".join([CHANGING, *names])


def _names(held: tuple[Any, Any] | None) -> Names:
    """Of the changes that a mark tells of, those that are still waited for."""
    if held is None or not isinstance(held[0], bytes) or not held[0].startswith(CHANGING):
        return []
    now = time.time()
    found = ((name, name.rpartition(b"@")[2]) for name in held[0].split(b" ")[1:])
    return [name for name, void_at in found if void_at.isdigit() and int(void_at) > now]
