"""What a worker does with a move that it has just claimed, from durable rows alone.

===================  ==========================  ================================================
state of the move    `global` has the user on    what is done
===================  ==========================  ================================================
queued .. verifying  source, same epoch          go on where it was
frozen               source, same epoch          thaw, destination ``importing`` again, catch up
frozen               destination, next epoch     can't be (one transaction changes both): stop
switched, purging    destination, or further on  tombstone (again), go on
any                  anything else               stop: `Contradiction`, nothing is touched
===================  ==========================  ================================================

A worker that vanished may have got further than the move's state says by one step, never by more,
since every step is recorded before the next begins.  So each of these repairs is written so that it
may find its work done.

A worker may also sleep between its claim and its first step, until another one has brought the move
to its end and cleared what it had written on the clusters.  So `global` is asked once more when the
claim stands there: from then on whoever is newer writes over it, and that is seen by every step.
"""

from __future__ import annotations

from lj_services.usercluster.mover import fences
from lj_services.usercluster.mover.cutover import let_go
from lj_services.usercluster.mover.errors import (
    ClaimLost,
    Contradiction,
    EndAsked,
    NotQuick,
    Superseded,
)
from lj_services.usercluster.mover.tables import BEFORE_COMMIT, FROZEN, QUEUED
from lj_services.usercluster.mover.work import Work, crash_here


def recover(work: Work) -> None:
    """Bring both clusters into the shape that the move's state calls for.

    Raises:
        Contradiction: `global` and the move disagree.
        ClaimLost: a newer claim is on a cluster already, or the move is over.
        DatabaseError: a database can't be reached.
    """
    move = work.move
    home = work.moves.home(move.userid)
    if move.state not in BEFORE_COMMIT:
        if home is not None and home[1] <= move.home_epoch:
            raise Contradiction(
                f"{move} is {move.state}, but global has the user on cluster {home[0]} with epoch "
                f"{home[1]}: was global restored from an old copy? Nothing was changed"
            )
        try:
            fences.stake(work.databases, work.src, move)
        except Superseded:
            work.superseded = True
        return
    if home != (move.src, move.home_epoch):
        where = "nowhere" if home is None else f"on cluster {home[0]} with epoch {home[1]}"
        raise Contradiction(
            f"{move} is {move.state} and began at epoch {move.home_epoch}, but global has the user "
            f"{where}: nothing was changed"
        )
    # The source first: while somebody's freeze stands there, users wait.
    fences.stake(work.databases, work.src, move)
    if move.state == FROZEN:
        with work.databases.write(work.src) as source:
            fences.thaw(source, move)
    fences.stake(work.databases, work.dst, move)
    crash_here("staked")
    if not work.moves.holds(move):
        for role in (work.src, work.dst):
            with work.databases.write(role) as connection:
                fences.withdraw(connection, move)
        raise ClaimLost(f"{move} was ended by another worker")
    if move.state == FROZEN:
        why = EndAsked("") if move.ending else NotQuick("its worker vanished during the cut-over")
        let_go(work, why)
    elif move.state != QUEUED:
        with work.databases.write(work.dst) as destination:
            fences.deactivate(destination, move)
