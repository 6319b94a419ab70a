"""Pools: which nodes there are to send requests to; by hand, or from a file that is watched.

A node file has one ``ip[:port] [weight=N]`` a line; ``#`` starts a comment.  A line that is there
twice gives the node twice the share, as a weight of 2 does: of new connections, or of requests
where ``balance_method`` is ``weighted`` (`proxy.weighing`).

The file is looked at every `CHECK_EVERY_S` seconds.  If it can't be read, or a line of it is
wrong, or no node is left in it, the nodes stay as they are and the log says so once: a file that
is just being written must not empty the pool.

A node that is drained (`Pool.drain`) is left out for a while, whatever lists it, and is in again by
itself: whoever has taken it out may die before it can put it in.

Source: Perlbal 1.80, doc/pool-parameters.txt.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from pathlib import Path
from typing import Final

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.nodes import Address, parse_address, parse_weight
from lj_services.perlbal.tunables import nearest

CHECK_EVERY_S: Final = 3.0
METHODS: Final = ("random", "weighted")
PARAMETERS: Final = ("nodefile", "balance_method")
_NOTHING = frozenset({"none", "undef", "null", '""', "''"})

log = logging.getLogger(__name__)


class Pool:
    """A named list of nodes.

    Attributes:
        name: in lower case.
        nodes: the addresses that get requests; one that is there twice has the weight 2.
        weighted: whether requests go by weights, and not to whoever is free.
        generation: grows with every change, so that connections to what is gone are noticed.
        services: how many services use it.
        used: how often each node was given a request, by address.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Address] = []
        self._listed: list[Address] = []
        self._drained: dict[Address, float] = {}
        self.generation = 0
        self.services = 0
        self.used: Counter[Address] = Counter()
        self.weighted = False
        self.nodefile: Path | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._complaint = ""

    def set(self, key: str, value: str) -> None:
        """Carry out ``SET pool.key = value``.

        Raises:
            CommandError: the parameter is unknown, the file can't be used, or the method is
                none that there is.
        """
        if key == "balance_method":
            if value not in METHODS:
                raise CommandError(
                    f"Unknown balance method '{value}'; there are {', '.join(METHODS)}"
                )
            if self.weighted != (value == "weighted"):
                self.weighted = not self.weighted
                self.generation += 1
        elif key == "nodefile":
            self._set_nodefile(value)
        else:
            raise CommandError(nearest(key, PARAMETERS, "pool parameter"))

    def add(self, address: Address, weight: int = 1) -> None:
        """Add a node; one that is there already stays there once, with this weight."""
        self._drained.pop(address, None)
        self._change([node for node in self._listed if node != address] + [address] * weight)

    def weights(self) -> Counter[Address]:
        """The weights of those that get requests."""
        return Counter(self.nodes)

    def remove(self, address: Address) -> None:
        """Take a node out."""
        self._drained.pop(address, None)
        self._change([node for node in self._listed if node != address])

    def drain(self, address: Address, until: float) -> None:
        """Leave a node out for a while; one that is left out already, until then.

        Args:
            address: of a node.
            until: loop time at which it is in again; `add` and `remove` end that earlier.

        Raises:
            CommandError: the pool has no such node.
        """
        if address not in self._listed:
            raise CommandError(
                f"pool {self.name} has no node {address}; SHOW POOL {self.name} lists them"
            )
        self._drained[address] = until
        self._change(self._listed)

    def drained(self, now: float) -> dict[Address, int]:
        """For how many seconds from loop time `now` nodes are left out yet; each at least 1."""
        return {node: max(1, math.ceil(until - now)) for node, until in self._drained.items()}

    def let_in(self, now: float) -> None:
        """Have nodes in again that were left out until loop time `now`."""
        for node in [node for node, until in self._drained.items() if until <= now]:
            del self._drained[node]
            log.info("node is in again", extra={"pool": self.name, "node": str(node)})
            self._change(self._listed)

    def shuffled(self) -> list[Address]:
        """Every node, in random order; those with more lines tend to be first."""
        nodes = self.nodes
        return random.sample(nodes, len(nodes))

    def check_nodefile(self) -> bool:
        """Read the node file again if it changed; returns whether nodes did."""
        if self.nodefile is None:
            return False
        try:
            status = self.nodefile.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return False
            nodes = _read_nodefile(self.nodefile)
            if not nodes:
                raise ValueError(f"{self.nodefile}: no node in it")
            self._stamp = stamp
        except (OSError, ValueError) as error:
            if self._complaint != str(error):
                self._complaint = str(error)
                log.warning(
                    "node file can't be used, the nodes stay as they are: %s",
                    error,
                    extra={"pool": self.name},
                )
            return False
        self._complaint = ""
        if nodes == self._listed:
            return False
        self._change(nodes)
        log.info(
            "node file was read", extra={"pool": self.name, "nodes": " ".join(map(str, nodes))}
        )
        return True

    def dump(self, now: float) -> list[str]:
        """The commands that make this pool what it is at loop time `now`, without CREATE."""
        lines = ["SET balance_method = weighted"] if self.weighted else []
        if self.nodefile is not None:
            lines.append(f"SET nodefile = {self.nodefile}")
        else:
            for node, weight in Counter(self._listed).items():
                told = f" weight={weight}" if weight > 1 else ""
                lines.append(f"POOL ADD {self.name} {node}{told}")
        for node, seconds in self.drained(now).items():
            lines.append(f"POOL DRAIN {self.name} {node} for={seconds}")
        return lines

    def _set_nodefile(self, value: str) -> None:
        if value in _NOTHING:
            self.nodefile = None
            return
        path = Path(value)
        try:
            nodes = _read_nodefile(path)
            status = path.stat()
        except (OSError, ValueError) as error:
            raise CommandError(f"File can't be used: {error}") from None
        self.nodefile = path
        self._stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        self._change(nodes)

    def _change(self, listed: list[Address]) -> None:
        self._listed = listed
        for gone in self._drained.keys() - listed:
            del self._drained[gone]
        nodes = [node for node in listed if node not in self._drained]
        if nodes != self.nodes:
            self.nodes = nodes
            self.generation += 1


def _read_nodefile(path: Path) -> list[Address]:
    nodes: list[Address] = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            # Other words behind an address were never looked at.
            told = words[1] if words[1:] and words[1].lower().startswith("weight") else "weight=1"
            weight = parse_weight(told)
            nodes += [parse_address(words[0])] * weight
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return nodes
