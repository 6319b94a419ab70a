"""How often is too often: what Throttle knows of addresses, without sockets and timers.

An address is *unseen*; *seen*, once it has asked, for ``throttle_threshold_seconds``; in
*violation*, each time that it asks while it is seen.  The n-th violation in a row costs
``initial_delay`` x 2^(n-1) seconds, at most ``max_delay``; while that time runs it is seen,
and then forgotten: who waits until the answer comes pays once, who sends more meanwhile
pays twice as much each time.  At ``ban_threshold`` violations it is *banned* for
``ban_expiration`` seconds.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from lj_services.perlbal.proxy.headers import in_networks
from lj_services.perlbal.values import Network

EVENTS: Final = frozenset(
    {"ban", "unban", "whitelisted", "blacklisted", "banned", "concurrent", "throttled"}
)
MOST_ADDRESSES: Final = 100_000
"""Addresses that are remembered; those that asked longest ago are forgotten first."""


class Settings(Protocol):
    """The parameters of a service, by name."""

    def __getitem__(self, name: str) -> Any:
        """One of them."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of a request.

    Attributes:
        allowed: it goes on at once.
        event: what to call it in the log; empty: nothing special.
        delay: seconds that it must wait; None: it is refused.
    """

    allowed: bool
    event: str = ""
    delay: float | None = None


_ALLOWED = Verdict(True)


@dataclass
class _Seen:
    """An address that has asked; `until` is the loop's time at which it is forgotten."""

    until: float
    violations: int = 0


class Throttler:
    """One service's judgement.

    Attributes:
        settings: the service's parameters; looked at for each request.
        lists: ``whitelist`` and ``blacklist``, as far as they are set.
        held: requests that wait, by address.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lists: dict[str, tuple[Network, ...]] = {}
        self.held: Counter[str] = Counter()
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._banned: dict[str, float] = {}

    def judge(self, address: str, target: bytes, method: bytes, now: float) -> Verdict:
        """What becomes of a request of `address`, at loop time `now`."""
        settings = self.settings
        if self._listed("whitelist", address):
            return Verdict(True, "whitelisted")
        if (until := self._banned.get(address)) is not None:
            if now < until:
                return Verdict(False, "banned")
            del self._banned[address]
            return Verdict(True, "unban")
        if self._listed("blacklist", address):
            if settings["blacklist_action"] == "deny":
                return Verdict(False, "blacklisted")
        elif settings["default_action"] == "allow":
            return _ALLOWED
        if self.held[address] >= settings["max_concurrent"]:
            return Verdict(False, "concurrent")
        path, verb = settings["path_regex"], settings["method_regex"]
        if (path is not None and not path.search(target)) or (
            verb is not None and not verb.search(method)
        ):
            return _ALLOWED
        return self._count(address, now)

    def no_longer_held(self, address: str) -> None:
        """One request of `address` waits no more."""
        self.held[address] -= 1
        if not self.held[address]:
            del self.held[address]

    def _listed(self, which: str, address: str) -> bool:
        networks = self.lists.get(which)
        return networks is not None and in_networks(address, networks)

    def _count(self, address: str, now: float) -> Verdict:
        settings = self.settings
        seen = self._seen.pop(address, None)
        if seen is None or now >= seen.until:
            self._remember(address, _Seen(now + settings["throttle_threshold_seconds"]))
            return _ALLOWED
        delay = float(
            min(settings["initial_delay"] * 2 ** min(seen.violations, 32), settings["max_delay"])
        )
        violations = seen.violations + 1
        limit = settings["ban_threshold"]
        if limit and violations >= limit:
            self._banned[address] = now + settings["ban_expiration"]
            self._forget_bans(now)
            return Verdict(False, "ban")
        self._remember(address, _Seen(now + delay, violations))
        return Verdict(False, "throttled", delay)

    def _remember(self, address: str, seen: _Seen) -> None:
        self._seen[address] = seen
        if len(self._seen) > MOST_ADDRESSES:
            self._seen.popitem(last=False)

    def _forget_bans(self, now: float) -> None:
        if len(self._banned) > MOST_ADDRESSES:
            self._banned = {a: until for a, until in self._banned.items() if until > now}


def read_networks(file: Path) -> tuple[Network, ...]:
    """The networks in a file: one a line; ``#`` begins a comment.

    Raises:
        OSError: it can't be read.
        ValueError: a line is no network, or there is none.
    """
    networks: list[Network] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        try:
            networks.append(ipaddress.ip_network(word, strict=False))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    if not networks:
        raise ValueError("it holds no network")
    return tuple(networks)
