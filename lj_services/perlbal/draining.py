"""A node kept out of balancers' pools for as long as something is done to it.

::

    consoles = [HostPort.parse("10.0.0.1:60000"), HostPort.parse("10.0.0.2:60000")]
    with drained(consoles, "webs", "10.0.0.7:8080", lease_s=30) as node:
        node.wait(patience_s=30)      # until its requests are through
        restart_it()

A balancer is told to leave the node out for `lease_s` seconds, and told so again long before
they are over.  So it is in again by itself if this program is killed, or can't reach the
balancer any more; nobody has to notice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from lj_services.daemon import HostPort
from lj_services.perlbal.client import ConsoleClient, Refused

ASK_EVERY_S: Final = 0.2

log = logging.getLogger(__name__)


class Drained:
    """A node that is out of the pool.

    Args:
        consoles: of the balancers; at least one.
        pool: in which the node is.
        node: ip[:port].
        lease_s: how long it stays out without being renewed, in seconds.
    """

    def __init__(
        self, consoles: Sequence[HostPort], pool: str, node: str, lease_s: int = 30
    ) -> None:
        self._consoles = consoles
        self._pool = pool
        self._node = node
        self._lease_s = lease_s
        self._told: list[HostPort] = []

    def begin(self) -> None:
        """Take it out of every balancer's pool.

        Raises:
            Refused: a balancer has no such pool, or no such node in it.
            OSError: a balancer does not answer.
        """
        for console in self._consoles:
            self._tell(console, self._lease_s)
            self._told.append(console)

    def renew(self) -> None:
        """The same again; a balancer that can't be told is logged, and has the node in again."""
        self._try(self._lease_s)

    def end(self) -> None:
        """Put it in again; where that can't be told, it is in again in `lease_s` seconds."""
        self._try(0)

    def wait(self, patience_s: float) -> bool:
        """Wait until no balancer has a connection to it; whether that was so in time.

        Args:
            patience_s: how long, in seconds.

        Raises:
            OSError: a balancer does not answer.
        """
        until = time.monotonic() + patience_s
        while any(self._busy(console) for console in self._consoles):
            if time.monotonic() > until:
                return False
            time.sleep(ASK_EVERY_S)
        return True

    def _try(self, seconds: int) -> None:
        for console in self._told:
            try:
                self._tell(console, seconds)
            except (OSError, Refused) as error:
                log.warning("balancer at %s: node %s: %s", console, self._node, error)

    def _tell(self, console: HostPort, seconds: int) -> None:
        with ConsoleClient(console) as client:
            client.run(f"POOL {self._pool} DRAIN {self._node} for={seconds}")

    def _busy(self, console: HostPort) -> bool:
        with ConsoleClient(console) as client:
            return self._node in (line.split()[0] for line in client.run("backends"))


@contextmanager
def drained(
    consoles: Sequence[HostPort], pool: str, node: str, *, lease_s: int = 30
) -> Iterator[Drained]:
    """Keep a node out for the length of the block, and have it in again behind it.

    Args:
        consoles: of the balancers; at least one.
        pool: in which the node is.
        node: ip[:port], as ``SHOW POOL`` writes it.
        lease_s: after how many seconds it is in again if this process dies; at least 3.

    Raises:
        Refused: a balancer has no such pool, or no such node in it.
        OSError: a balancer does not answer.
    """
    out = Drained(consoles, pool, node, lease_s)
    over = threading.Event()

    def renew() -> None:
        while not over.wait(lease_s / 3):
            out.renew()

    renewing = threading.Thread(target=renew, name="drained", daemon=True)
    try:
        out.begin()
        renewing.start()
        yield out
    finally:
        over.set()
        if renewing.ident is not None:
            renewing.join()
        out.end()
