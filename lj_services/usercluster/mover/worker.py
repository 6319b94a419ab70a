"""A worker: takes moves from the table and brings each as far as it can.

`Worker.run` is one claim of one move, from wherever it is: its way is in `journey`.  What becomes
of an error that stands in the way:

- *refused* (schemas differ, no room, rows differ): the move is undone and ``failed``
- *passing* (a database out of reach, busy, a feed that broke): given back, and due again after a
  back-off that doubles; after ``attempts`` of them it is undone and ``failed``
- *the claim was lost*: stop at once and touch nothing more
- *a contradiction* between `global` and the move: given back for a long while with the reason; an
  operator has to look

`Worker.loop` does that for one due move after the other, in as many threads as asked for; the feeds
are shared by all of them.  It needs nobody to coordinate it: claims are decided in the database.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable

from lj_services.daemon import ConfigError
from lj_services.database import DatabaseError, Databases
from lj_services.usercluster.config import UserSettings
from lj_services.usercluster.errors import UserClusterError
from lj_services.usercluster.mover import purge
from lj_services.usercluster.mover.config import MoverSettings
from lj_services.usercluster.mover.errors import (
    ClaimLost,
    Contradiction,
    HandBack,
    MoveRefused,
)
from lj_services.usercluster.mover.feeds import Feeds
from lj_services.usercluster.mover.journey import Journey
from lj_services.usercluster.mover.known import Known
from lj_services.usercluster.mover.metrics import LEASES_LOST, RUNNING, RUNS
from lj_services.usercluster.mover.moves import Moves
from lj_services.usercluster.mover.presence import Presence
from lj_services.usercluster.mover.recovery import recover
from lj_services.usercluster.mover.states import Move
from lj_services.usercluster.mover.tables import (
    AFTER_COMMIT,
    FAILED,
    FROZEN,
)
from lj_services.usercluster.mover.work import Work, crash_here
from lj_services.usercluster.users import Users

log = logging.getLogger(__name__)

CONTRADICTION_S = 300.0
LONGEST_BACKOFF_S = 60.0
IDLE_S = 0.5
BELIEVED_S = 1.0
"""How long the list of moves that are due is believed."""
SIGN_EVERY_S = 4.0


def name_of_this_process() -> str:
    """A worker's name: host, process, and when it began, since process ids come again."""
    return f"{socket.gethostname()}:{os.getpid()}:{time.time_ns() // 1_000_000 % 1_000_000:06d}"


class Worker:
    """Works on moves.

    Args:
        databases: the site's.
        users: the site's; corrects caches after a cut-over.
        settings: the ``[mover]`` table of the site file.
        user_settings: its ``[users]`` table.
        name: the worker's; distinct from every other one's.

    Raises:
        ConfigError: the grace time is shorter than caches keep routes.
    """

    def __init__(
        self,
        databases: Databases,
        users: Users,
        settings: MoverSettings,
        user_settings: UserSettings,
        name: str | None = None,
    ) -> None:
        if settings.grace_s < user_settings.route_ttl_s:
            raise ConfigError(
                f"mover.grace_s = {settings.grace_s:g} is shorter than users.route_ttl_s = "
                f"{user_settings.route_ttl_s}: readers with an old route would find purged rows"
            )
        self.name = name or name_of_this_process()
        self.moves = Moves(databases)
        self.feeds = Feeds(databases, settings)
        self.presence = Presence(databases, self.name)
        self._databases = databases
        self._users = users
        self._settings = settings
        self._known = Known(databases)
        self._found: list[Move] = []
        self._found_at = 0.0
        self._lock = threading.Lock()

    # --- Many moves ---

    def loop(self, stop: threading.Event, *, jobs: int = 1, until_idle: bool = False) -> None:
        """Work until told to stop.

        Args:
            stop: set it to end; moves under way come to an end first.
            jobs: moves at once.
            until_idle: end also when no move is due.
        """
        threads = [
            threading.Thread(target=self._serve, args=(stop, until_idle), name=f"mover {number}")
            for number in range(jobs)
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                try:
                    self.presence.sign_of_life()
                except DatabaseError as error:
                    log.warning("global is out of reach: %s", error)
                self.feeds.record_rates()
                for thread in threads:
                    thread.join(SIGN_EVERY_S / len(threads))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            self.feeds.close()
            self.presence.sign_off()

    def _serve(self, stop: threading.Event, until_idle: bool) -> None:
        while not stop.is_set():
            try:
                move = self.next()
            except DatabaseError as error:
                log.warning("no moves can be looked for: %s", error)
                stop.wait(IDLE_S * 4)
                continue
            if move is None:
                if until_idle:
                    return
                stop.wait(IDLE_S)
                continue
            try:
                self.run(move)
            except Exception:
                log.exception("%s: an error that nobody foresaw", move)

    def next(self) -> Move | None:
        """Claim the most urgent move that is due; None: there is none."""
        while (move := self._candidate()) is not None:
            try:
                return self.moves.claim(move, self.name, self._settings.lease_s)
            except ClaimLost:
                continue
        return None

    def _candidate(self) -> Move | None:
        """One of those that were due when it was looked last; looks again if that is long ago."""
        with self._lock:
            if not self._found or time.monotonic() - self._found_at > BELIEVED_S:
                self._found = self.moves.due()
                self._found_at = time.monotonic()
                # Workers who look at once would all try the same one first.
                random.shuffle(self._found)
                self._found.sort(key=lambda move: move.priority)
            return self._found.pop() if self._found else None

    # --- One move ---

    def run(
        self,
        move: Move,
        tick: Callable[[Move], None] | None = None,
        gate: Callable[[Work], None] | None = None,
    ) -> Move:
        """Work on a move that this worker has claimed, as far as it goes now.

        Args:
            move: claimed.
            tick: called with every sign of life.
            gate: called between transactions while nobody is held up (see `Work.gate`).

        Returns:
            the move as it is when it was given back: ``switched`` (its purge is due later), final,
            or waiting for its next attempt with ``error`` set.
        """
        work = Work(self._databases, self.moves, self._settings, move)
        if tick is not None:
            work.tick = tick
        if gate is not None:
            work.gate = gate
        crash_here("claimed")
        result = None
        with RUNNING.track_inprogress():
            try:
                with work.alive():
                    Journey(work, self._users, self.feeds, self._known).go_on()
            except ClaimLost as error:
                result = "lost"
                LEASES_LOST.inc()
                log.info("%s", error)
            except HandBack as asked:
                result = "handed_back"
                self._hand_back(work, str(asked))
            except Exception as error:
                result = "error"
                self._give_back(work, error)
        RUNS.labels(result or work.state).inc()
        if result is None and not work.move.owner:
            return work.move  # as it was given back
        return self.moves.get(move.move_id)

    def _hand_back(self, work: Work, why: str) -> None:
        """Leave a move to whoever takes it up next, from where it is; that was no attempt."""
        try:
            work.save()
            self.moves.note(work.move, f"given back: {why}")
            self.moves.release(work.move, attempts=max(0, work.move.attempts - 1))
        except (ClaimLost, DatabaseError) as error:
            log.warning("%s could not be given back: %s", work.move, error)

    def _give_back(self, work: Work, error: Exception) -> None:
        """Decide what becomes of a move that ended in an error."""
        work.settle()
        move = work.move
        backoff = min(
            self._settings.backoff_s * 2 ** max(0, min(move.attempts - 1, 10)), LONGEST_BACKOFF_S
        )
        ending = None
        if isinstance(error, Contradiction):
            backoff = CONTRADICTION_S
        elif isinstance(error, MoveRefused) or move.attempts >= self._settings.attempts:
            ending = FAILED
        if not isinstance(error, DatabaseError | UserClusterError):
            log.exception("%s: an error that nobody foresaw", move)
        if move.state in AFTER_COMMIT:
            ending = None
        if move.state == FROZEN:
            backoff = 0.0  # whoever can reach the source thaws the user
        log.warning("%s, %s: %s: %s", move, work.state, type(error).__name__, error)
        try:
            given_back = self.moves.release(
                move, due_in_s=0.0 if ending else backoff, error=str(error), ending=ending
            )
            if ending and move.ending is None:
                self._undo(given_back)
        except (ClaimLost, DatabaseError) as second:
            # The lease runs out, and whoever claims the move next recovers it.
            log.warning("%s could not be given back: %s", move, second)

    def _undo(self, move: Move) -> None:
        """Clean up after a move that failed; if that fails too, it is due again later."""
        work = Work(
            self._databases,
            self.moves,
            self._settings,
            self.moves.claim(move, self.name, self._settings.lease_s),
        )
        try:
            with work.alive():
                recover(work)
                purge.give_up(work)
        except (DatabaseError, MoveRefused, Contradiction) as error:
            both = f"{move.error}; {error}"
            self.moves.release(work.move, due_in_s=LONGEST_BACKOFF_S, error=both)
