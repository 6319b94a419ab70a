"""The cut-over: the few milliseconds in which a user's writes are held.

In order, with what each step is safe for:

1. `global`: the move is ``frozen``, with a short lease.  From now on whoever finds the lease run
   out thaws the user.
2. source: marker and fence in one transaction.  It waits ``freeze_lock_ms`` at most for a writer's
   open transaction; when it returns the rows stand still.
3. the feed is drained to the marker; what is dirty is brought over and compared, in one transaction
   of the destination that also raises the counters and makes its fence ``active`` with the next
   epoch.  No route has that epoch yet.  (Without a feed: one more pass over all chunks.)
4. `global`: the commit point.
5. source: the tombstone; caches.  Writers who were waiting go to the destination.

Before each step that would take long, and last before 4, the clock is looked at: when the freeze
would outlast its limit, or anything fails before 4, the user is let go: source thawed, destination
``importing`` again, and the move is back in ``catching_up``.  Nothing has happened but a pause.

When the answer to 4 is lost, `global` is asked who is home, and that decides.  If it can't be
reached the user stays frozen until somebody can ask: neither side may guess.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

from sqlalchemy import Connection

from lj_services.database import CommitUnknown, DatabaseBusy, DatabaseError
from lj_services.usercluster.errors import UserClusterError
from lj_services.usercluster.mover import fences, numbers, passes
from lj_services.usercluster.mover.errors import ClaimLost, Contradiction, EndAsked, NotQuick
from lj_services.usercluster.mover.follow import Follower
from lj_services.usercluster.mover.metrics import PAUSE, PHASES
from lj_services.usercluster.mover.tables import CATCHING_UP, FROZEN, SWITCHED
from lj_services.usercluster.mover.work import Work, crash_here
from lj_services.usercluster.users import Users

ASK_FOR_S = 1.0


@dataclass(frozen=True, slots=True)
class Pause:
    """How long a user's writes were held, and on what: milliseconds."""

    total: float
    lock: float
    follow: float
    commit: float

    def __str__(self) -> str:
        return (
            f"held {self.total:.1f} ms (lock {self.lock:.1f}, follow and verify "
            f"{self.follow:.1f}, commit {self.commit:.1f})"
        )


def cut_over(work: Work, users: Users, follower: Follower | None) -> Pause:
    """Try the cut-over once.

    Args:
        work: in ``verifying``, with hardly anything dirty.
        users: to correct the caches.
        follower: None without a feed.

    Returns:
        how long it took; the move is ``switched``.

    Raises:
        NotQuick: the user was let go; the move is in ``catching_up``.
        RowsDiffer: likewise, but the destination is not equal.
        ClaimLost: somebody else has the move.
        DatabaseError: likewise let go, if the source could be reached.
    """
    limit_s = work.settings.freeze_limit_ms / 1000
    lease_s = max(work.settings.frozen_lease_s, 2 * limit_s)
    work.advance(FROZEN, "writes are held", lease_s=lease_s)
    crash_here("freezing")
    began = time.monotonic()
    try:
        with work.databases.write(work.src) as source:
            frozen = fences.freeze(source, work.move, work.settings.freeze_lock_ms)
            began = frozen.since
        locked = time.monotonic()
        crash_here("froze")
        _follow(work, follower, frozen, began + limit_s)
        followed = time.monotonic()
        crash_here("activated")
        if followed - began > limit_s:
            raise NotQuick(f"it took over {work.settings.freeze_limit_ms} ms")
        _commit(work, began)
    except (ClaimLost, Contradiction):
        raise  # not ours to thaw
    except BaseException as error:
        if work.move.state == FROZEN:
            let_go(work, error)
            PAUSE.labels("let_go").observe(time.monotonic() - began)
        if isinstance(error, DatabaseBusy):
            raise NotQuick(str(error)) from error
        raise
    committed = time.monotonic()
    crash_here("switched")
    bury(work)
    ended = time.monotonic()
    PHASES.labels(SWITCHED).inc()
    PAUSE.labels("switched").observe(ended - began)
    users.correct(work.move.userid)
    return Pause(
        (ended - began) * 1000,
        (locked - began) * 1000,
        (followed - locked) * 1000,
        (committed - followed) * 1000,
    )


def _follow(work: Work, follower: Follower | None, frozen: fences.Frozen, deadline: float) -> None:
    """Bring over what is left, compare it, and make the destination ready."""
    if follower is None:
        crash_here("drained")
        with work.locking(work.src) as source, work.databases.write(work.dst) as destination:
            fences.importing(destination, work.move)
            passes.walk_frozen(work, source, destination)
            ceilings: numbers.Ceilings = {}
            numbers.look_everywhere(ceilings, work.rows, source, work.found, work.move.userid)
            _ready(work, destination, ceilings, frozen, deadline)
        return
    dirty = follower.up_to(frozen.marker, max(0.001, deadline - time.monotonic()))
    crash_here("drained")
    try:
        with ExitStack() as stack:
            destination = stack.enter_context(work.databases.write(work.dst))
            fences.importing(destination, work.move)
            if any(dirty.values()):
                source = stack.enter_context(work.locking(work.src))
                follower.apply_frozen(source, destination, dirty)
            _ready(work, destination, follower.ceilings, frozen, deadline)
    except BaseException:
        follower.subscription.give_back(dirty)  # that transaction is rolled back
        raise


def _ready(
    work: Work,
    destination: Connection,
    ceilings: numbers.Ceilings,
    frozen: fences.Frozen,
    deadline: float,
) -> None:
    """Counters and fence of the destination; or let go of it all, if it is too late."""
    numbers.raise_counters(destination, work.move.userid, ceilings)
    fences.activate(destination, work.move, frozen.readonly, frozen.schema_ver)
    if time.monotonic() > deadline:
        raise NotQuick(f"it took over {work.settings.freeze_limit_ms} ms")


def _commit(work: Work, began: float) -> None:
    """The commit point, and who is home if its answer is lost."""
    held = round((time.monotonic() - began) * 1e6)
    try:
        work.take(work.moves.commit_point(work.move, freeze_us=held))
    except CommitUnknown:
        until = time.monotonic() + ASK_FOR_S
        while True:
            try:
                home = work.moves.home(work.move.userid)
                break
            except DatabaseError:
                if time.monotonic() > until:
                    raise ClaimLost(
                        f"{work.move}: global broke off at the commit point and can't be asked who "
                        "is home; whoever reaches it next decides"
                    ) from None
                time.sleep(0.05)
        if home != (work.move.dst, work.move.home_epoch + 1):
            raise
        work.take(work.moves.get(work.move.move_id))


def let_go(work: Work, why: BaseException) -> None:
    """Thaw the user and go back to ``catching_up``; also what recovery does.

    The order does not matter for safety; the source comes first because users wait for it.
    """
    with work.databases.write(work.src) as source:
        fences.thaw(source, work.move)
    with work.databases.write(work.dst) as destination:
        fences.deactivate(destination, work.move)
    reason = str(why) if isinstance(why, UserClusterError | DatabaseError) else repr(why)
    ending = isinstance(why, EndAsked)
    work.advance(CATCHING_UP, f"let go: {reason}" if not ending else "let go: to be undone")


def finish(work: Work, users: Users) -> None:
    """What follows the commit point: tombstone and caches; more than once does no harm."""
    assert work.move.state == SWITCHED
    bury(work)
    users.correct(work.move.userid)


def bury(work: Work) -> None:
    """Leave the tombstone: writers who wait at the source look where the user is now."""
    with work.databases.write(work.src) as source:
        fences.bury(source, work.move)
    crash_here("buried")
