"""Wrong passwords: slowed down, without a way to lock somebody out.

Counting by name alone would let anybody lock out anybody; counting by address alone
locks out all who share a proxy.  So failures are counted for a name *from a place*.
A place is the browser where that name has logged in before (it holds a signed device
cookie, which nobody else can have), or else the network that the request comes from.
An attacker uses up their own network's attempts; the owner's known browser keeps its own.

The counts live in this process: they are bounded in number, the oldest go first, and a
restart forgets them.  With n processes behind a balancer the limit is at most n times
what is set.

Source: OWASP, "Slow Down Online Guessing Attacks with Device Cookies".
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from lj_services.journal.errors import TooManyFailures

MOST_PLACES = 50_000


class Throttle:
    """Counts failures by place and name.

    Args:
        failures: how many are allowed in a window.
        window_s: how long they count, in seconds, from the first on.
        clock: seconds, rising.
    """

    def __init__(
        self, failures: int, window_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failures = failures
        self._window_s = window_s
        self._clock = clock
        self._counts: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def attempt(self, place: str, name: str) -> None:
        """Count an attempt, before the password is looked at: many at once count too.

        Raises:
            TooManyFailures: there were too many; this one must not be looked at.
        """
        key, now = (place, name), self._clock()
        with self._lock:
            count, since = self._counts.get(key, (0, now))
            if now - since >= self._window_s:
                count, since = 0, now
            if count >= self._failures:
                raise TooManyFailures(int(since + self._window_s - now) + 1)
            self._counts[key] = count + 1, since
            while len(self._counts) > MOST_PLACES:
                self._counts.popitem(last=False)

    def succeeded(self, place: str, name: str) -> None:
        """The password was right: forget the failures."""
        with self._lock:
            self._counts.pop((place, name), None)


def network(address: str) -> str:
    """The network that an address stands for: IPv4 itself, IPv6 its /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def device_cookie(key: bytes, name: str) -> str:
    """A cookie for a browser where `name` has logged in."""
    nonce = secrets.token_urlsafe(16)
    return f"{nonce}.{_sign(key, name, nonce)}"


def place_of(key: bytes, name: str, cookie: str | None, address: str) -> str:
    """Where an attempt for `name` comes from: a known browser, else a network."""
    nonce, _, signature = (cookie or "").partition(".")
    if nonce and hmac.compare_digest(signature.encode(), _sign(key, name, nonce).encode()):
        return f"device {nonce}"
    return f"network {network(address)}"


def _sign(key: bytes, name: str, nonce: str) -> str:
    return hmac.new(key, f"device\0{name}\0{nonce}".encode(), hashlib.sha256).hexdigest()
