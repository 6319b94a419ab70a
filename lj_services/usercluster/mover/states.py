"""The state machine of a move, kept in `global`; every step is one conditional UPDATE.

The states::

    queued -> preparing -> copying -> catching_up -> verifying -> frozen -> switched
                  ^            |           ^             |          |          |
                  +- restart --+           +-------------+-- let go +          v
    (any before switched) -> failed | cancelled          rolled_back <- (grace) -> purging -> done

- ``queued``       waits for a worker
- ``preparing``    both sides compared; the destination is wiped of this user and set ``importing``
- ``copying``      rows travel in the order of the primary key; the feed is open
- ``catching_up``  what was written meanwhile follows
- ``verifying``    every chunk's checksum is compared; nobody is held up
- ``frozen``       the user's writes are held for some milliseconds
- ``switched``     past the commit point: the destination is home, the source's rows are kept
- ``purging``      the grace time is over: the source's rows are deleted in small batches
- ``done``, ``failed``, ``cancelled``, ``rolled_back`` (moved back within the grace time)

Rules.

1. A move belongs to the worker with the newest *claim*.  Claiming counts ``claim`` up and is
   possible only when the lease has run out (or was given back).  Every later UPDATE names
   (move, owner, claim, state): a worker that was believed dead and wakes up matches no row,
   gets `ClaimLost` and stops.  The lease decides only when somebody else may try; that two
   workers never both act is decided by the claim, so clocks can be wrong.
2. The clusters know the claim too (`fences`): a changed fence or a row that is written names it
   in the same transaction.
3. *The commit point* is one transaction in `global`: it changes the user's ``clusterid``, ``epoch``
   and ``rev``, and the move's state from ``frozen`` to ``switched``.  Before it the source is the
   truth, after it the destination; there is no moment in between, and a worker that does not know
   whether its commit arrived reads which one it is.
4. A move that is to be undone gets ``ending`` (failed or cancelled, with the reason).  It keeps its
   state until some worker has thawed the source and wiped the destination; only then it becomes
   final.  So a final state means that nothing was left behind.  ``ending`` is refused after the
   commit point: the way back is another move.
5. ``frozen`` has a short lease that is never renewed.  Whoever finds it run out thaws the user.
6. One move per user: ``active_userid`` is unique.  It is given free at the commit point, so that a
   user can move on, or back, while an earlier home still keeps their rows.

What any worker does with a move that it finds (`recovery`) follows from these rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lj_services.usercluster.mover.tables import (
    CANCELLED,
    CATCHING_UP,
    COPYING,
    DONE,
    FAILED,
    FINAL,
    FROZEN,
    PREPARING,
    PURGING,
    QUEUED,
    ROLLED_BACK,
    SWITCHED,
    VERIFYING,
)

NEXT: Final[Mapping[str, tuple[str, ...]]] = {
    QUEUED: (PREPARING, FAILED, CANCELLED),
    PREPARING: (COPYING, FAILED, CANCELLED),
    COPYING: (CATCHING_UP, PREPARING, FAILED, CANCELLED),
    CATCHING_UP: (VERIFYING, PREPARING, FAILED, CANCELLED),
    VERIFYING: (FROZEN, CATCHING_UP, PREPARING, FAILED, CANCELLED),
    FROZEN: (SWITCHED, CATCHING_UP, FAILED, CANCELLED),
    SWITCHED: (PURGING, ROLLED_BACK),
    PURGING: (DONE,),
}
"""Which state may follow which."""


@dataclass(frozen=True, slots=True)
class Move:
    """A row of ``user_move``; times in milliseconds since 1970."""

    move_id: int
    userid: int
    src: int
    dst: int
    home_epoch: int
    """The user's epoch on the source; on the destination it is one more."""
    state: str
    ending: str | None
    error: str | None
    owner: str | None
    claim: int
    lease_until: int
    due_at: int
    attempts: int
    priority: int
    back_of: int | None
    options: dict[str, Any]
    progress: dict[str, Any] = field(repr=False)
    freeze_us: int | None
    created_at: int
    started_at: int | None
    switched_at: int | None
    finished_at: int | None

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINAL

    def __str__(self) -> str:
        return f"move {self.move_id} (userid {self.userid}, cluster {self.src} to {self.dst})"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened in a move."""

    at: int
    state: str
    message: str


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened in a move, to be recorded."""

    state: str
    message: str
    ago_s: float = 0.0
    """How long ago, in seconds."""
