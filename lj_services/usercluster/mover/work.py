"""One worker's work on one move: what the steps share, and the thread that keeps the lease.

`Work` holds the claimed move as it was last read, and what was found about its clusters.  The
steps call `Work.check` between transactions: it raises when the claim was lost or somebody asked
for the move's end, so that a step never runs on for long without knowing.

``MOVER_CRASH_AT=step`` in the environment ends the process with SIGKILL at that step (`CRASHES`):
how the tests cut the power at every place where it would hurt.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Connection

from lj_services.database import DatabaseError, Databases, cluster_role
from lj_services.usercluster.errors import UserClusterError
from lj_services.usercluster.mover.config import MoverSettings
from lj_services.usercluster.mover.discovery import Schema
from lj_services.usercluster.mover.errors import ClaimLost, EndAsked
from lj_services.usercluster.mover.known import rows_of
from lj_services.usercluster.mover.metrics import PHASES
from lj_services.usercluster.mover.moves import Moves
from lj_services.usercluster.mover.rows import Rows
from lj_services.usercluster.mover.states import Move, Step
from lj_services.usercluster.mover.tables import FROZEN

log = logging.getLogger(__name__)

CRASHES: Final = (
    "claimed",
    "staked",
    "wiped",
    "prepared",
    "chunk",
    "copied",
    "caught-up",
    "verified",
    "freezing",
    "froze",
    "drained",
    "activated",
    "switched",
    "buried",
    "released",
    "purge-batch",
    "purged",
)
"""The named steps, in order."""

COMMIT_EVERY_S: Final = 0.2
ENVIRONMENT: Final = "MOVER_CRASH_AT"


def crash_here(step: str) -> None:
    """End the process without a last word, if the environment names this step."""
    if os.environ.get(ENVIRONMENT) == step:
        os.kill(os.getpid(), signal.SIGKILL)


class Work:
    """A claimed move, its clusters, and how far it is.

    Args:
        databases: the site's.
        moves: the moves in `global`.
        settings: the site's rules.
        move: claimed.
    """

    def __init__(
        self, databases: Databases, moves: Moves, settings: MoverSettings, move: Move
    ) -> None:
        self.databases = databases
        self.moves = moves
        self.settings = settings.model_copy(update=move.options)
        self.move = move
        """As it is recorded."""
        self.state = move.state
        """Where the work is in truth: as recorded, or further on."""
        self.progress: dict[str, Any] = dict(move.progress)
        self.src = cluster_role(move.src)
        self.dst = cluster_role(move.dst)
        self.schema: Schema | None = None
        self.rows: Rows = rows_of(databases, self.src)
        self.superseded = False
        """A newer move has the source in its charge: there is nothing left to do there."""
        self.tick: Callable[[Move], None] = lambda _move: None
        """Called with every sign of life, for whoever shows the progress."""
        self.gate: Callable[[Work], None] = lambda _work: None
        """Called between two transactions while nobody is held up: may take its time, or raise
        `HandBack`."""
        self.between_checks_s = COMMIT_EVERY_S
        """How long a step may go on until it comes by the gate again; a gate that slows the work
        down makes it shorter."""
        self.undoing = False
        """The move's end was asked for, and that is what is being worked on."""
        self._unsaid: list[tuple[float, str, str]] = []
        self._lost: str | None = None
        self._lock = threading.Lock()

    @property
    def found(self) -> Schema:
        """The schema of both sides; compared before anything else."""
        assert self.schema is not None
        return self.schema

    def reading(self, role: str) -> AbstractContextManager[Connection]:
        """One moment of a cluster, from its writer, without locks."""
        return self.databases.read(role, definitive=True)

    def locking(self, role: str) -> AbstractContextManager[Connection]:
        """A transaction whose reads can lock rows; on SQLite nothing needs that."""
        if self.databases.writer(role).is_sqlite:
            return self.reading(role)
        return self.databases.write(role)

    def check(self) -> None:
        """Between two transactions: may the work go on?

        Raises:
            ClaimLost, EndAsked: as their names say.
            HandBack: the gate says so.
        """
        if self._lost is not None:
            raise ClaimLost(self._lost)
        if self.state == FROZEN or self.undoing:
            return
        if self.move.ending is not None:
            raise EndAsked(f"{self.move} is to be {self.move.ending}")
        self._record_if_due()
        self.gate(self)

    def enter(self, state: str, message: str) -> None:
        """Go to the next state.  Whoever takes the move over must be able to do without knowing.

        The record may wait for the next one, but not for longer than ``record_within_ms``.
        """
        self.state = state
        self.note(message)
        PHASES.labels(state).inc()
        self.tick(replace(self.move, state=state, progress=dict(self.progress)))

    def note(self, message: str) -> None:
        """Tell something that happened; its record may wait likewise."""
        self._unsaid.append((time.monotonic(), self.state, message))
        self._record_if_due()

    def _record_if_due(self) -> None:
        if (
            self._unsaid
            and time.monotonic() - self._unsaid[0][0] >= self.settings.record_within_ms / 1000
        ):
            self.save()

    def advance(self, state: str, message: str, *, lease_s: float | None = None) -> None:
        """Go to the next state, and record it with all that is not recorded yet.

        Raises:
            ClaimLost, EndAsked: see `Moves.record`.
        """
        self._unsaid.append((time.monotonic(), state, message))
        self._record(self.settings.lease_s if lease_s is None else lease_s)
        PHASES.labels(state).inc()
        self.tick(self.move)

    def save(self) -> None:
        """Record the progress and what is not recorded yet, and renew the lease.

        Raises:
            ClaimLost: the move is somebody else's.
        """
        if self._unsaid:
            self._record(self.settings.lease_s)
        else:
            with self._lock:
                self.move = self.moves.heartbeat(self.move, self.settings.lease_s, self.progress)
        self.tick(self.move)

    def settle(self) -> None:
        """Record what is not recorded yet, if that can be: after an error, for the history."""
        try:
            if self._unsaid:
                self._record(self.settings.lease_s)
        except (UserClusterError, DatabaseError) as error:
            log.info("%s: its last steps were not recorded: %s", self.move, error)

    def _record(self, lease_s: float) -> None:
        now = time.monotonic()
        steps = [Step(state, message, now - at) for at, state, message in self._unsaid]
        self._unsaid.clear()  # also if it fails: the steps are told once or not at all
        with self._lock:
            self.move = self.moves.record(self.move, steps, progress=self.progress, lease_s=lease_s)
        self.state = self.move.state

    def take(self, move: Move) -> None:
        """Go on from what was read of the move; what was not recorded is forgotten."""
        self._unsaid.clear()
        self.move = move
        self.state = move.state

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Keep the lease for the length of the block, from a thread of its own."""
        stop = threading.Event()

        def beat() -> None:
            patience = self.settings.lease_s / 4
            while not stop.wait(patience):
                try:
                    if self.move.state != FROZEN:
                        with self._lock:
                            if self.move.state != FROZEN and not stop.is_set():
                                self.move = self.moves.heartbeat(self.move, self.settings.lease_s)
                        self.tick(self.move)
                except ClaimLost as error:
                    self._lost = str(error)
                    return
                except DatabaseError:
                    continue  # `global` is out of reach: the lease tells for how long that is fine

        thread = threading.Thread(target=beat, name=f"move {self.move.move_id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


class Meter:
    """Sizes chunks so that each takes about as long as it may.

    Args:
        target_s: how long one may take, in seconds.
        most_bytes: how big one may be.
        rows: how many the first one has.
        least: not fewer than so many for the sake of time: what these take is not theirs, but that
            of a busy machine or of a long way.
    """

    def __init__(self, target_s: float, most_bytes: int, rows: int = 200, least: int = 10) -> None:
        self.rows = rows
        self._least = least
        self._target_s = target_s
        self._most_bytes = most_bytes

    def took(self, rows: int, size: int, seconds: float) -> None:
        """Learn from a chunk: how many rows and bytes it had, and how long it took."""
        if rows == 0:
            return
        fit = max(self._least, rows * self._target_s / max(seconds, 1e-6))
        if size:
            fit = min(fit, rows * self._most_bytes / size)
        # Double at most: one quick chunk says little about the next; shrink at once.
        self.rows = int(max(10, min(fit, self.rows * 2, 50_000)))


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """A clock: call it for the seconds since the block began."""
    began = time.monotonic()
    yield lambda: time.monotonic() - began
