"""The straight way of one move: prepare, copy, catch up, verify, cut over, keep, purge.

`Journey.go_on` takes a claimed move from wherever it is as far as it goes now: to the cut-over, or
over the purge when the grace time is over.  What stands in the way is raised; what becomes of it is
the worker's affair (`worker`).

A user with few rows (``at_once_rows``) is copied and compared in one transaction on each side, and
then is where others are after `copy` and `verify`.
"""

from __future__ import annotations

import time

from sqlalchemy import Connection

from lj_services.usercluster.mover import copy, cutover, noting, numbers, passes, purge
from lj_services.usercluster.mover import plan as planning
from lj_services.usercluster.mover import verify as verifying
from lj_services.usercluster.mover.binlog import Place
from lj_services.usercluster.mover.discovery import compare
from lj_services.usercluster.mover.errors import EndAsked, MoveRefused, NotQuick
from lj_services.usercluster.mover.feeds import Feeds
from lj_services.usercluster.mover.follow import Follower
from lj_services.usercluster.mover.known import Known
from lj_services.usercluster.mover.recovery import recover
from lj_services.usercluster.mover.tables import (
    AFTER_COMMIT,
    CATCHING_UP,
    COPYING,
    PREPARING,
    PURGING,
    QUEUED,
    SWITCHED,
    VERIFYING,
)
from lj_services.usercluster.mover.work import Work, crash_here
from lj_services.usercluster.users import Users

ENOUGH_TO_FREEZE = 20
"""Dirty keys that may be left for the freeze."""
DIRTY_IN_MEMORY = 5000
"""Dirty keys that may wait while chunks are copied."""
PASSES = 12


class Journey:
    """One claim of one move.

    Args:
        work: the claimed move.
        users: the site's; corrects caches after the cut-over.
        feeds: the worker's.
        known: what the worker knows of the clusters.
    """

    def __init__(self, work: Work, users: Users, feeds: Feeds, known: Known) -> None:
        self._work = work
        self._users = users
        self._feeds = feeds
        self._known = known
        self._follower: Follower | None = None
        self._looked = False
        """The schema was looked at once more after the copy."""

    def go_on(self) -> None:
        """Recover, then go as far as it goes."""
        work = self._work
        recover(work)
        try:
            if work.move.ending is not None:
                purge.give_up(work)
            elif work.state in AFTER_COMMIT:
                self._end()
            else:
                self._move()
        except EndAsked:
            work.take(work.moves.get(work.move.move_id))
            purge.give_up(work)

    def _move(self) -> None:
        """From wherever the move is to the cut-over."""
        work = self._work
        try:
            if work.state not in (QUEUED, PREPARING):
                self._resume()
            if work.state in (QUEUED, PREPARING):
                self._prepare()
            if work.state == COPYING:
                self._copy()
            if work.state == VERIFYING:
                work.enter(CATCHING_UP, "taken up again")
            pause = self._switch_by_passes() if self._follower is None else self._switch()
        finally:
            if self._follower is not None:
                self._follower.subscription.close()
        self._keep(pause)

    def _resume(self) -> None:
        """Go on where another worker stopped, or from the start if that can't be."""
        work, place = self._work, self._work.progress.get("place")
        plan = self._look()
        if not work.progress.get("feed"):
            return
        if place is not None and plan.why_no_feed is None:
            subscription = self._feeds.resume(work, Place(*place))
            if subscription is not None:
                self._follower = Follower(work, subscription)
                return
        work.enter(PREPARING, f"{plan.follows} can't be taken up again: from the start")

    def _prepare(self) -> None:
        work = self._work
        plan = self._look()
        total = sum(plan.rows.values())
        work.progress = {"total": total, "rows": 0, "bytes": 0, "feed": plan.why_no_feed is None}
        if work.state == QUEUED:
            work.enter(PREPARING, f"by {work.move.owner}")
        if plan.why_no_feed is not None:
            gone = copy.clear(work)
            crash_here("wiped")
        else:
            subscription, place = self._feeds.subscribe(work)
            self._follower = Follower(work, subscription)
            work.progress["place"] = [place.server_id, place.file, place.pos]
            if total <= work.settings.at_once_rows and plan.bytes <= work.settings.chunk_bytes:
                self._copy_at_once(plan.follows)
                return
            gone = copy.clear(work)
            crash_here("wiped")
        cleared = f", {gone} left-over rows deleted there" if gone else ""
        work.enter(COPYING, f"{total} rows to copy{cleared}; followed by {plan.follows}")
        crash_here("prepared")

    def _look(self) -> planning.Plan:
        work, move = self._work, self._work.move
        plan = planning.look(
            work.databases, work.settings, move.userid, move.src, move.dst, self._known
        )
        work.schema = plan.schema
        return plan

    def _copy_at_once(self, follows: str) -> None:
        work, follower = self._work, self._follower
        assert follower is not None
        crash_here("prepared")
        with work.locking(work.src) as source:
            equal = copy.at_once(work, source)
            numbers.look_everywhere(
                follower.ceilings, work.rows, source, work.found, work.move.userid
            )
            self._look_again(source)
        work.enter(COPYING, f"all rows at once; followed by {follows}")
        crash_here("copied")
        work.enter(CATCHING_UP, f"{work.progress['rows']} rows copied")
        if equal:
            work.progress["verified_all"] = True
            work.note("verified in the same transaction")

    def _copy(self) -> None:
        work, follower = self._work, self._follower
        if follower is None:
            copy.copy(work, lambda: False, lambda: None)
        else:
            copy.copy(
                work,
                lambda: follower.subscription.pending > DIRTY_IN_MEMORY,
                lambda: self._work_off(follower),
            )
        crash_here("copied")
        work.enter(CATCHING_UP, f"{work.progress.get('rows', 0)} rows copied")

    def _work_off(self, follower: Follower) -> None:
        follower.once()
        self._work.save()

    def _look_again(self, connection: Connection) -> None:
        """Whether the source's tables are what they were before the copy."""
        work = self._work
        now = self._known.look(connection, work.move.src).schema
        if now is not work.found:
            compare((f"cluster {work.move.src}, before", work.found), ("now", now))
        self._looked = True

    def _switch(self) -> cutover.Pause:
        """Catch up, verify, cut over; again and again while it is not quick enough."""
        work, follower, settings = self._work, self._follower, self._work.settings
        assert follower is not None
        for attempt in range(settings.freeze_tries):
            if attempt:
                time.sleep(min(0.05 * 2 ** min(attempt, 6), 2.0))
            if not follower.catch_up(ENOUGH_TO_FREEZE, 60.0) and attempt == 0:
                work.note(f"{follower.subscription.pending} keys behind")
            crash_here("caught-up")
            if not self._looked:
                with work.reading(work.src) as connection:
                    self._look_again(connection)
            self._looked = False
            work.enter(VERIFYING, "caught up")
            self._verify(follower)
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

    def _verify(self, follower: Follower) -> None:
        """What has not been compared, or looked at for its numbers, in an earlier attempt."""
        work = self._work
        if "verified_all" not in work.progress:
            work.progress["verified"] = 0
            chunks = verifying.verify(
                work, follower, lambda: follower.subscription.pending > ENOUGH_TO_FREEZE * 10
            )
            work.progress["verified_all"] = True
            work.note(f"{chunks} chunks verified")
        if not follower.ceilings:
            with work.reading(work.src) as connection:
                numbers.look_everywhere(
                    follower.ceilings, work.rows, connection, work.found, work.move.userid
                )

    def _switch_by_passes(self) -> cutover.Pause:
        work = self._work
        limit_s = work.settings.freeze_limit_ms / 1000
        slowest = 0.0
        for attempt in range(PASSES):
            work.check()
            found = passes.walk(work)
            crash_here("caught-up")
            slowest = found.seconds
            took = f"pass {attempt + 1}: {found.seconds * 1000:.0f} ms"
            work.note(f"{took}, {found.mended} mended")
            if found.seconds > limit_s * 0.7 and (found.mended or attempt < 2):
                continue
            if found.seconds > limit_s * 0.7:
                break
            work.enter(VERIFYING, f"a pass takes {found.seconds * 1000:.0f} ms")
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

    def _keep(self, pause: cutover.Pause) -> None:
        """Past the cut-over: the source's rows stay for the grace time."""
        work = self._work
        noting.forget(work)
        work.take(
            work.moves.release(
                work.move,
                due_in_s=work.settings.grace_s,
                message=str(pause),
                freeze_us=round(pause.total * 1000),
            )
        )
        crash_here("released")

    def _end(self) -> None:
        """After the commit point: the tombstone if it is missing, then the purge if it is time."""
        work = self._work
        noting.forget(work)
        if work.state == SWITCHED:
            if not work.superseded:
                cutover.finish(work, self._users)
            kept_s = (work.moves.now() - (work.move.switched_at or 0)) / 1000
            if kept_s < work.settings.grace_s and not work.superseded:
                work.take(work.moves.release(work.move, due_in_s=work.settings.grace_s - kept_s))
                return
            work.advance(PURGING, "the grace time is over")
        purge.purge(work)
