"""Which of a role's readers takes a read: weighted, alive, not behind.

Theory of operation.  A reader is *up* or *left out*.  Two things leave it out:

- a failure: connecting fails, or its connection breaks under a read.  It is
  then not looked at for 5 s, then 10 s, 20 s ... up to 60 s, each time varied by a
  quarter at random, so that a hundred web processes don't all come back at once;
- lag: replication is stopped (either of its threads), unknown, or more than
  ``max_lag_s`` behind.  It is looked at again at the next round.

The looking is done by one thread per process, every ``health_interval_s``, on a
connection of its own, so that no query pays for it, and a server that hangs costs
that thread its timeout and nobody else.  Only the first read of a role waits for
a first look.  A read that meets a broken connection takes the reader out at
once (`Reader.failed`); only a look takes it back.

With no reader left, the writer answers: the caller never sees the difference.

When the writer is away, as one is while its host is taken over from, its replicas lose
it too, and count as lagging.  Those that have replayed all that they had are *cut off*:
where the writer can't be reached they answer, since nothing newer is to be had.

Source: DBI::Role (weights, 5 s of death, 2 s to connect); unlike it, a stopped
replication thread counts as lag.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator, Sequence

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from lj_services.database.engines import TOO_MANY_CONNECTIONS, Server, error_number
from lj_services.database.errors import DatabaseError
from lj_services.database.metrics import READER_LAG, READER_UP

log = logging.getLogger(__name__)

DEAD_FIRST_S = 5.0
DEAD_LONGEST_S = 60.0

LOOKING_FOR_ITS_SOURCE = {"Connecting", "Preparing"}
"""What an IO thread is that would go on by itself; one that somebody stopped is not."""

REPLAYED = "has read all relay log"
"""Part of the SQL thread's state, of both flavours, when it has nothing left to do."""

CUT_OFF = "it has lost its source; reads come here only where that can't be reached either"


class Reader:
    """One replica: its server, its weight, and whether it takes reads now."""

    def __init__(self, server: Server, weight: int, max_lag_s: float) -> None:
        self.server = server
        self.weight = weight
        self.up = False
        self.cut_off = False
        """Whether losing its source is all that leaves it out."""
        self.why_not = "not looked at yet"
        self._max_lag_s = max_lag_s
        self._failures = 0
        self._look_at = 0.0
        self._lock = threading.Lock()

    def failed(self, why: str, *, now: float | None = None) -> None:
        """Leave it out after a failure, for longer each time in a row."""
        with self._lock:
            rest = min(DEAD_LONGEST_S, DEAD_FIRST_S * 2**self._failures)
            self._failures = min(self._failures + 1, 16)
            rest *= random.uniform(0.75, 1.25)  # noqa: S311  spread, not secret
            self._look_at = (time.monotonic() if now is None else now) + rest
        self.server.close()  # its pooled connections are as dead
        self._turn(False, f"{why}; looked at again in {rest:.0f} s")

    def due(self) -> bool:
        """Whether its time of death is over, so that it should be looked at."""
        return time.monotonic() >= self._look_at

    def look(self) -> None:
        """Connect, ask for its lag, and take it in or leave it out."""
        try:
            behind = self._behind()
        except DatabaseError as error:
            if error_number(error.__cause__ or error) in TOO_MANY_CONNECTIONS:
                return  # alive and crowded: stays what it was
            self.failed(str(error))
            return
        except DBAPIError as error:
            self.failed(f"its replication state can't be read: {error.orig}")
            return
        self._failures = 0
        self._turn(behind is None, behind or "", cut_off=behind == CUT_OFF)

    def _behind(self) -> str | None:
        """Why it is too far behind, or None."""
        gauge = READER_LAG.labels(self.server.role, self.server.label)
        with self.server.connect("probe") as connection:
            if self._max_lag_s == 0 or self.server.is_sqlite:
                connection.execute(text("SELECT 1"))
                return None
            row = connection.execute(text("SHOW REPLICA STATUS")).mappings().first()
        gauge.set(-1)
        if row is None:
            return "it replicates from nowhere (set max_lag_s = 0 if it need not)"
        replaying = row.get("Slave_SQL_Running", row.get("Replica_SQL_Running"))
        if replaying != "Yes":
            return f"replication is stopped (Slave_SQL_Running: {replaying})"
        receiving = row.get("Slave_IO_Running", row.get("Replica_IO_Running"))
        if receiving != "Yes":
            state = row.get("Slave_SQL_Running_State", row.get("Replica_SQL_Running_State"))
            if receiving in LOOKING_FOR_ITS_SOURCE and REPLAYED in str(state):
                return CUT_OFF
            return f"replication is stopped (Slave_IO_Running: {receiving})"
        lag = row.get("Seconds_Behind_Master", row.get("Seconds_Behind_Source"))
        if lag is None:
            return "how far it is behind is unknown"
        gauge.set(float(lag))
        if float(lag) > self._max_lag_s:
            return f"{lag} s behind, more than max_lag_s = {self._max_lag_s:g}"
        return None

    def _turn(self, up: bool, why_not: str, *, cut_off: bool = False) -> None:
        if up != self.up:
            if up:
                log.info("reader %s takes reads", self.server)
            else:
                log.warning("reader %s left out: %s", self.server, why_not)
        self.up, self.why_not, self.cut_off = up, why_not, cut_off
        READER_UP.labels(self.server.role, self.server.label).set(up)


class Readers:
    """The readers of one role."""

    def __init__(self, readers: Sequence[Reader], every_s: float) -> None:
        self.all = tuple(readers)
        self.every_s = every_s
        self._looked = threading.Event()
        self._first = threading.Lock()

    def draw(self, *, cut_off: bool = False) -> Iterator[Reader]:
        """The readers that are up, in a random order that follows their weights.

        Args:
            cut_off: those that have lost their source instead.
        """
        if self.all and not self._looked.is_set():
            with self._first:
                if not self._looked.is_set():
                    self.look()
                    self._looked.set()
        left = [
            reader
            for reader in self.all
            if reader.weight and (reader.cut_off if cut_off else reader.up)
        ]
        while left:
            weights = [reader.weight for reader in left]
            (reader,) = random.choices(left, weights)  # noqa: S311  a draw, not a secret
            left.remove(reader)
            yield reader

    def look(self) -> None:
        """Look at every reader whose time of death is over."""
        for reader in self.all:
            if reader.due():
                reader.look()


class HealthThread:
    """Looks at the readers of all roles, each at its interval, until it is stopped."""

    def __init__(self, roles: Sequence[Readers]) -> None:
        self._roles = roles
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="database-health", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns when it has ended."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        next_look = dict.fromkeys(self._roles, 0.0)
        while True:
            now = time.monotonic()
            for readers, due in next_look.items():
                if due <= now:
                    try:
                        readers.look()
                    except Exception:  # whatever it is, the next look must still come
                        log.exception("looking at the readers failed")
                    spread = random.uniform(0.75, 1.25)  # noqa: S311  spread, not secret
                    next_look[readers] = time.monotonic() + readers.every_s * spread
            if self._stop.wait(max(0.0, min(next_look.values()) - time.monotonic())):
                return
