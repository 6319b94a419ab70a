"""A worker: takes moves from the table and brings each as far as it can.

`Worker.run` is one claim of one move, from wherever it is: recover, then state by state until
the cut-over (or the purge), or until something stands in the way.  What becomes of an error:

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

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from lj_services.daemon import ConfigError
from lj_services.database import DatabaseError, Databases
from lj_services.usercluster.config import UserSettings
from lj_services.usercluster.errors import UserClusterError
from lj_services.usercluster.mover import copy, cutover, fences, numbers, passes, purge
from lj_services.usercluster.mover import plan as planning
from lj_services.usercluster.mover import verify as verifying
from lj_services.usercluster.mover.config import MoverSettings
from lj_services.usercluster.mover.discovery import compare
from lj_services.usercluster.mover.errors import (
    ClaimLost,
    Contradiction,
    EndAsked,
    HandBack,
    MoveRefused,
    NotQuick,
)
from lj_services.usercluster.mover.feed import Feed, Place, Subscription, here, still_there
from lj_services.usercluster.mover.follow import Follower
from lj_services.usercluster.mover.metrics import LEASES_LOST, RUNNING, RUNS
from lj_services.usercluster.mover.moves import Moves
from lj_services.usercluster.mover.rates import WriteRates
from lj_services.usercluster.mover.recovery import recover
from lj_services.usercluster.mover.states import Move
from lj_services.usercluster.mover.tables import (
    AFTER_COMMIT,
    CATCHING_UP,
    COPYING,
    FAILED,
    FROZEN,
    PREPARING,
    PURGING,
    QUEUED,
    SWITCHED,
    VERIFYING,
    mover_worker,
    now_ms,
)
from lj_services.usercluster.mover.work import Work, crash_here
from lj_services.usercluster.users import Users

log = logging.getLogger(__name__)

ENOUGH_TO_FREEZE = 20
"""Dirty keys that may be left for the freeze."""
DIRTY_IN_MEMORY = 5000
"""Dirty keys that may wait while chunks are copied."""
PASSES = 12
CONTRADICTION_S = 300.0
LONGEST_BACKOFF_S = 60.0
IDLE_S = 0.5
WORKER_SEEN_S = 15.0


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
        self._databases = databases
        self._users = users
        self._settings = settings
        self.trouble: str | None = "starting"
        """Why the last sign of life could not be given; None: it was."""
        self._feeds: dict[int, Feed] = {}
        self._rates: dict[int, WriteRates] = {}
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
                    self.sign_of_life()
                except DatabaseError as error:
                    log.warning("global is out of reach: %s", error)
                self.record_rates()
                for thread in threads:
                    thread.join(WORKER_SEEN_S / 4 / len(threads))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            self.sign_off()

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
        due = self.moves.due()
        # Workers who look at once would all try the same one first.
        random.shuffle(due)
        for move in sorted(due, key=lambda move: -move.priority):
            try:
                return self.moves.claim(move, self.name, self._settings.lease_s)
            except ClaimLost:
                continue
        return None

    @property
    def feeds(self) -> dict[int, Feed]:
        """The feeds that were opened, by the cluster that they read."""
        with self._lock:
            return dict(self._feeds)

    def sign_of_life(self) -> None:
        """Tell others that a worker is there.

        Raises:
            DatabaseError: ``global`` is out of reach.
        """
        try:
            self._sign()
        except DatabaseError as error:
            self.trouble = str(error)
            raise
        self.trouble = None

    def _sign(self) -> None:
        with self._databases.write("global") as connection:
            changed = connection.execute(
                update(mover_worker)
                .where(mover_worker.c.name == self.name)
                .values(seen_at=now_ms())
            ).rowcount
            if not changed:
                try:
                    connection.execute(
                        insert(mover_worker).values(name=self.name, seen_at=now_ms())
                    )
                except IntegrityError:
                    return
            connection.execute(
                delete(mover_worker).where(mover_worker.c.seen_at < now_ms() - 3_600_000)
            )

    def record_rates(self) -> None:
        """Record how much users write, of each cluster that was watched for long enough."""
        every_s = self._settings.write_rates_s
        for cluster, feed in self.feeds.items():
            if every_s == 0 or feed.watched_s < every_s:
                continue
            rates = self._rates.setdefault(cluster, WriteRates(self._databases, cluster))
            try:
                rates.learn(*feed.take_writes())
            except (DatabaseError, DBAPIError) as error:
                log.warning("cluster %s: write rates could not be recorded: %s", cluster, error)

    def sign_off(self) -> None:
        """Tell others that it is gone."""
        try:
            with self._databases.write("global") as connection:
                connection.execute(delete(mover_worker).where(mover_worker.c.name == self.name))
        except DatabaseError as error:
            log.warning("could not sign off: %s", error)

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
                    self._bring_on(work)
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
        RUNS.labels(result or work.move.state).inc()
        return self.moves.get(move.move_id)

    def _bring_on(self, work: Work) -> None:
        recover(work)
        try:
            if work.move.ending is not None:
                purge.give_up(work)
                return
            if work.move.state in AFTER_COMMIT:
                self._end(work)
                return
            self._move(work)
        except EndAsked:
            work.move = self.moves.get(work.move.move_id)
            purge.give_up(work)

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
        log.warning("%s, %s: %s: %s", move, move.state, type(error).__name__, error)
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

    def _move(self, work: Work) -> None:
        """From wherever the move is to the cut-over."""
        subscription = None
        try:
            if work.move.state not in (QUEUED, PREPARING):
                subscription = self._resume(work)
            if work.move.state in (QUEUED, PREPARING):
                subscription = self._prepare(work)
            follower = None if subscription is None else Follower(work, subscription)
            if work.move.state == COPYING:
                self._copy(work, follower)
            if work.move.state == VERIFYING:
                work.advance(CATCHING_UP, "taken up again")
            pause = (
                self._switch(work, follower)
                if follower is not None
                else self._switch_by_passes(work)
            )
        finally:
            if subscription is not None:
                subscription.close()
        self._keep(work, pause)

    def _prepare(self, work: Work) -> Subscription | None:
        move = work.move
        plan = planning.look(self._databases, work.settings, move.userid, move.src, move.dst)
        work.schema = plan.schema
        work.progress = {
            "total": sum(plan.rows.values()),
            "rows": 0,
            "bytes": 0,
            "feed": plan.why_no_feed is None,
        }
        if move.state == QUEUED:
            work.advance(PREPARING, f"by {self.name}")
        with self._databases.write(work.dst) as connection:
            fences.begin_import(connection, move)
        gone = copy.wipe(work)
        crash_here("wiped")
        subscription = None
        if plan.why_no_feed is None:
            with work.reading(work.src) as connection:
                start = here(connection)
            subscription = self._subscribe(work, start)
            work.progress["place"] = [start.server_id, start.file, start.pos]
        how = "the binary log" if subscription else f"passes of checksums: {plan.why_no_feed}"
        cleared = f", {gone} left-over rows deleted there" if gone else ""
        work.advance(COPYING, f"{work.progress['total']} rows to copy{cleared}; followed by {how}")
        crash_here("prepared")
        return subscription

    def _resume(self, work: Work) -> Subscription | None:
        """Go on where another worker stopped, or from the start if that can't be."""
        move, place = work.move, work.progress.get("place")
        plan = planning.look(self._databases, work.settings, move.userid, move.src, move.dst)
        work.schema = plan.schema
        if not work.progress.get("feed"):
            return None
        if place is not None and plan.why_no_feed is None:
            start = Place(*place)
            with work.reading(work.src) as connection:
                if still_there(connection, start):
                    return self._subscribe(work, start, here(connection))
        work.advance(PREPARING, "the source's binary log can't be taken up again: from the start")
        return None

    def _subscribe(self, work: Work, start: Place, end: Place | None = None) -> Subscription:
        with self._lock:
            if work.move.src not in self._feeds:
                self._feeds[work.move.src] = Feed(self._databases.writer(work.src))
            feed = self._feeds[work.move.src]
        claim = (work.move.move_id, work.move.claim)
        return feed.subscribe(work.move.userid, work.found, start, claim, end)

    def _copy(self, work: Work, follower: Follower | None) -> None:
        if follower is None:
            copy.copy(work, lambda: False, lambda: None)
        else:
            copy.copy(
                work,
                lambda: follower.subscription.pending > DIRTY_IN_MEMORY,
                lambda: self._work_off(work, follower),
            )
        crash_here("copied")
        work.advance(CATCHING_UP, f"{work.progress.get('rows', 0)} rows copied")

    def _work_off(self, work: Work, follower: Follower) -> None:
        follower.once()
        work.save()

    def _switch(self, work: Work, follower: Follower) -> cutover.Pause:
        """Catch up, verify, cut over; again and again while it is not quick enough."""
        settings = work.settings
        for attempt in range(settings.freeze_tries):
            if attempt:
                time.sleep(min(0.05 * 2 ** min(attempt, 6), 2.0))
            if not follower.catch_up(ENOUGH_TO_FREEZE, 60.0) and attempt == 0:
                self.moves.note(work.move, f"{follower.subscription.pending} keys behind")
            crash_here("caught-up")
            with work.reading(work.src) as connection:
                now = work.rows.schema(connection, f"cluster {work.move.src}")
            compare((f"cluster {work.move.src}, before", work.found), ("now", now))
            work.advance(VERIFYING, "caught up")
            if "verified_all" not in work.progress:
                work.progress["verified"] = 0
                chunks = verifying.verify(
                    work, follower, lambda: follower.subscription.pending > ENOUGH_TO_FREEZE * 10
                )
                work.progress["verified_all"] = True
                self.moves.note(work.move, f"{chunks} chunks verified")
            if not follower.ceilings:
                with work.reading(work.src) as connection:
                    numbers.look_everywhere(
                        follower.ceilings, work.rows, connection, work.found, work.move.userid
                    )
            follower.catch_up(ENOUGH_TO_FREEZE, 5.0)
            work.check()
            crash_here("verified")
            try:
                return cutover.cut_over(work, self._users, follower)
            except NotQuick as error:
                last = error
                work.check()
        raise MoveRefused(
            f"{work.move}: no cut-over within {settings.freeze_limit_ms} ms in "
            f"{settings.freeze_tries} tries (the last one: {last}); raise mover.freeze_limit_ms"
        )

    def _switch_by_passes(self, work: Work) -> cutover.Pause:
        limit_s = work.settings.freeze_limit_ms / 1000
        slowest = 0.0
        for attempt in range(PASSES):
            work.check()
            found = passes.walk(work)
            crash_here("caught-up")
            slowest = found.seconds
            took = f"pass {attempt + 1}: {found.seconds * 1000:.0f} ms"
            self.moves.note(work.move, f"{took}, {found.mended} mended")
            if found.seconds > limit_s * 0.7 and (found.mended or attempt < 2):
                continue
            if found.seconds > limit_s * 0.7:
                break
            work.advance(VERIFYING, f"a pass takes {found.seconds * 1000:.0f} ms")
            work.progress["verified_all"] = True
            crash_here("verified")
            try:
                return cutover.cut_over(work, self._users, None)
            except NotQuick:
                time.sleep(0.05 * (attempt + 1))
        raise MoveRefused(
            f"{work.move}: comparing all rows takes {slowest * 1000:.0f} ms, which does not fit "
            f"into mover.freeze_limit_ms = {work.settings.freeze_limit_ms}; raise that, or let the "
            "mover read the source's binary log"
        )

    def _keep(self, work: Work, pause: cutover.Pause) -> None:
        """Past the cut-over: the source's rows stay for the grace time."""
        self.moves.release(
            work.move,
            due_in_s=work.settings.grace_s,
            message=str(pause),
            freeze_us=round(pause.total * 1000),
        )
        crash_here("released")

    def _end(self, work: Work) -> None:
        """After the commit point: the tombstone if it is missing, then the purge if it is time."""
        if work.move.state == SWITCHED:
            if not work.superseded:
                cutover.finish(work, self._users)
            kept_s = (self.moves.now() - (work.move.switched_at or 0)) / 1000
            if kept_s < work.settings.grace_s and not work.superseded:
                self.moves.release(work.move, due_in_s=work.settings.grace_s - kept_s)
                return
            work.advance(PURGING, "the grace time is over")
        purge.purge(work)

    # --- Others ---

    def others(self) -> list[str]:
        """The names of other workers that were heard of lately."""
        with self._databases.read("global", definitive=True) as connection:
            return list(
                connection.scalars(
                    select(mover_worker.c.name).where(
                        mover_worker.c.seen_at > now_ms() - int(WORKER_SEEN_S * 1000),
                        mover_worker.c.name != self.name,
                    )
                )
            )
