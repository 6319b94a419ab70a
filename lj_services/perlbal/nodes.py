"""Nodes: the programs behind the balancer, what they answered lately, whether they are left out.

The rules:

- A node that can't be connected to, does not answer its OPTIONS, answers no HTTP or keeps
  silent is left out for a second, then tried again with one connection; each failure in a
  row doubles the pause, up to `LONGEST_PAUSE_S`.
- The first thing that goes well ends that.
- Until a node has proved itself, or after it failed, only one connection at a time is being
  opened to it: what hangs should take up one place, not all.

All services that use a node share what is known of it.
"""

from __future__ import annotations

import ipaddress
import re
from collections import deque
from typing import Final, NamedTuple

SHORTEST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 16.0
MOST_WEIGHT: Final = 100
CODES_KEPT: Final = 500
"""How many response codes `nodes` on the console counts."""


class Address(NamedTuple):
    """Where a node listens."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


def parse_address(text: str) -> Address:
    """Read ``10.0.0.1``, ``10.0.0.1:8080`` or ``[fd00::1]:8080``; the port is 80 unless given.

    Raises:
        ValueError: it is none of these.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(\d{1,5}))?", text, re.ASCII)
    if match is not None and int(match[3] or 80) < 65536:
        try:
            ip = ipaddress.ip_address(match[1] or match[2])
        except ValueError:
            pass
        else:
            return Address(str(ip), int(match[3] or 80))
    raise ValueError(f"'{text}' is no node: write ip[:port], for example 10.0.0.1:8080")


def parse_weight(text: str) -> int:
    """Read ``weight=3``.

    Raises:
        ValueError: it is not this, or not 1 to `MOST_WEIGHT`.
    """
    match = re.fullmatch(r"weight=(\d{1,3})", text.lower(), re.ASCII)
    if match is None or not 1 <= int(match[1]) <= MOST_WEIGHT:
        raise ValueError(f"'{text}' is no weight: write weight=1 to weight={MOST_WEIGHT}")
    return int(match[1])


class Node:
    """What is known of one node.

    Attributes:
        attempts, connects, requests: how often it was connected to, with success, and asked.
        last_attempt, last_connect, last_response: when, in seconds since 1970; 0: never.
        codes: statuses that it answered with lately.
        failures: in a row.
        retry_at: loop time until which it is left out.
        unverified_until: loop time until which its connections are used without OPTIONS.
        proven: whether it has answered since it last failed.
        unhealthy: whether it is left out for what it answers to checks (`proxy.health`).
    """

    __slots__ = (
        "address",
        "attempts",
        "codes",
        "connects",
        "failures",
        "last_attempt",
        "last_connect",
        "last_response",
        "name",
        "proven",
        "requests",
        "retry_at",
        "unhealthy",
        "unverified_until",
    )

    def __init__(self, address: Address) -> None:
        self.address = address
        self.name = str(address)
        self.attempts = 0
        self.connects = 0
        self.requests = 0
        self.last_attempt = 0
        self.last_connect = 0
        self.last_response = 0
        self.codes: deque[int] = deque(maxlen=CODES_KEPT)
        self.failures = 0
        self.retry_at = 0.0
        self.unverified_until = 0.0
        self.proven = False
        self.unhealthy = False

    def failed(self, now: float) -> float:
        """Leave it out for a while; returns for how long, in seconds.  `now` is loop time."""
        if now < self.retry_at:
            return self.retry_at - now  # what was on its way when it failed counts as one
        pause = min(SHORTEST_PAUSE_S * 2.0 ** min(self.failures, 10), LONGEST_PAUSE_S)
        self.failures += 1
        self.proven = False
        self.retry_at = now + pause
        return pause

    def succeeded(self) -> None:
        """It does its work."""
        self.failures = 0
        self.retry_at = 0.0
        self.proven = True

    def usable(self, now: float) -> bool:
        """Whether it may be connected to at loop time `now`."""
        return now >= self.retry_at and not self.unhealthy


class Nodes:
    """All nodes that were ever used, by address."""

    def __init__(self) -> None:
        self._nodes: dict[Address, Node] = {}

    def get(self, address: Address) -> Node:
        """The node at `address`; made if there was none."""
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = Node(address)
        return node

    def tried(self) -> list[Node]:
        """Those that were connected to at least once, by name."""
        return sorted((n for n in self._nodes.values() if n.attempts), key=lambda n: n.name)
