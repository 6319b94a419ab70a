"""X-REPROXY-CACHE-FOR: the URLs that a node has named, remembered for a while."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from lj_services.perlbal.http.head import RequestHead
from lj_services.perlbal.nodes import Address


class Url(NamedTuple):
    """Where a node says that the content is."""

    address: Address
    path: bytes
    text: str


class Cached(NamedTuple):
    """What X-REPROXY-CACHE-FOR has remembered."""

    urls: tuple[Url, ...]
    fields: tuple[bytes, ...]
    """Lines of the response."""
    modified: bytes
    size: int | None
    expires: float
    """Loop time."""


class Cache:
    """Answers that are remembered; those that were used longest ago go first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, Cached] = OrderedDict()
        self.most = 0
        self.hits = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, request: RequestHead, now: float) -> Cached | None:
        """What is remembered of a request, if it is still good."""
        key = _key(request)
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires < now:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        self.hits += 1
        return entry

    def put(self, request: RequestHead, entry: Cached) -> None:
        """Remember."""
        self._entries[_key(request)] = entry
        self._entries.move_to_end(_key(request))
        self.trim()

    def forget(self, request: RequestHead) -> None:
        """What was remembered does not hold."""
        self._entries.pop(_key(request), None)

    def trim(self) -> None:
        """Keep no more than may be kept."""
        while len(self._entries) > self.most:
            self._entries.popitem(last=False)


def _key(request: RequestHead) -> bytes:
    return request.host.lower() + b"|" + request.target
