"""What a mover may change on a cluster beside rows: the fence and its own marker.

Theory of operation.  A claim is good only while it is the newest, and `global` knows which
that is; a cluster can't ask `global` inside a transaction.  So whoever claims a move first
writes the claim into ``move_marker`` on both clusters (`stake`), over any older one and never
over a newer one.  Every later transaction of the mover on a cluster begins by looking for
exactly its own claim there, under a lock that holds until it commits (`guard`, `importing`,
`raise_marker`).  A worker that slept through its lease, and wakes up half-way through thawing a
fence or writing a chunk, finds another claim and stops; without that it could thaw a user
whom the new worker has just frozen, and writes would be lost.

The fence's own rule comes on top: each change names the state, the epoch and the move that it
starts from, so it happens once or not at all.

The marker's ``n`` is counted up in the transaction that freezes the user.  InnoDB gives that
transaction the fence's exclusive lock only after every earlier writer has committed, and the
binary log has commits in order: when the feed shows that ``n``, it has shown everything.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from lj_services.database import Databases
from lj_services.database.engines import error_number
from lj_services.usercluster.fence import Home, home_from_row, read_home
from lj_services.usercluster.mover.errors import (
    ClaimLost,
    Contradiction,
    NotQuick,
    Superseded,
)
from lj_services.usercluster.mover.states import Move
from lj_services.usercluster.mover.tables import move_marker
from lj_services.usercluster.tables import ACTIVE, FROZEN, IMPORTING, MOVED, user_home

_NOT_IN_TIME = {1205, 1969, 3572}

# Built once: every small user pays for these.
_MARKER = (
    select(move_marker.c.move_id, move_marker.c.claim)
    .where(move_marker.c.userid == bindparam("whom"))
    .with_for_update(read=True)
)
_IMPORTING = (
    select(move_marker.c.move_id, move_marker.c.claim, user_home.c.state, user_home.c.epoch)
    .join(user_home, user_home.c.userid == move_marker.c.userid)
    .where(move_marker.c.userid == bindparam("whom"), user_home.c.move_id == bindparam("move"))
    .with_for_update(read=True)
)
_COUNT_UP = (
    update(move_marker)
    .where(
        move_marker.c.userid == bindparam("whom"),
        move_marker.c.move_id == bindparam("move"),
        move_marker.c.claim == bindparam("newest"),
    )
    .values(n=move_marker.c.n + 1)
)
_HOME_AND_MARKER = (
    select(
        move_marker.c.n,
        user_home.c.state,
        user_home.c.epoch,
        user_home.c.readonly,
        user_home.c.schema_ver,
    )
    .outerjoin(user_home, user_home.c.userid == move_marker.c.userid)
    .where(move_marker.c.userid == bindparam("whom"))
)
_ACTIVATE = (
    update(user_home)
    .where(user_home.c.userid == bindparam("whom"), user_home.c.state == IMPORTING)
    .values(state=ACTIVE, readonly=bindparam("frozen_readonly"), schema_ver=bindparam("version"))
)
_BURY = (
    update(user_home)
    .where(
        user_home.c.userid == bindparam("whom"),
        user_home.c.state.in_((FROZEN, ACTIVE)),
        user_home.c.epoch == bindparam("left"),
    )
    .values(state=MOVED)
)


def stake(databases: Databases, role: str, move: Move) -> None:
    """Write a fresh claim over older ones on a cluster.

    Raises:
        Superseded: a newer move's is there.
        ClaimLost: a newer one of this move is there.
    """
    mine = (move.move_id, move.claim)
    first = insert(move_marker).values(
        userid=move.userid, move_id=move.move_id, claim=move.claim, n=0
    )
    if move.claim == 1:  # as a rule nobody has been here before
        with suppress(IntegrityError), databases.write(role) as connection:
            connection.execute(first)
            return
    while True:
        try:
            with databases.write(role) as connection:
                row = connection.execute(
                    select(move_marker.c.move_id, move_marker.c.claim)
                    .where(move_marker.c.userid == move.userid)
                    .with_for_update()
                ).first()
                if row is None:
                    connection.execute(first)
                elif int(row.move_id) > move.move_id:
                    raise Superseded(f"{move}: {role} belongs to the newer move {row.move_id}")
                elif (int(row.move_id), int(row.claim)) > mine:
                    raise ClaimLost(f"{move}: {role} knows a newer claim (move {row.move_id})")
                else:
                    connection.execute(
                        update(move_marker)
                        .where(move_marker.c.userid == move.userid)
                        .values(move_id=move.move_id, claim=move.claim)
                    )
            return
        except IntegrityError:
            continue  # another claim came in between: now there is a row


def guard(connection: Connection, move: Move) -> None:
    """Make sure, until the transaction ends, that the claim is the newest here.

    Raises:
        ClaimLost: it is not.
    """
    row = connection.execute(_MARKER, {"whom": move.userid}).first()
    if row is None or (int(row.move_id), int(row.claim)) != (move.move_id, move.claim):
        raise ClaimLost(f"{move} was taken over by another worker")


def raise_marker(connection: Connection, move: Move) -> int:
    """Count the marker up, with the same surety as `guard`; returns the new ``n``."""
    _count_up(connection, move)
    query = select(move_marker.c.n).where(move_marker.c.userid == move.userid)
    return int(connection.execute(query).scalar_one())


def _count_up(connection: Connection, move: Move) -> None:
    mine = {"whom": move.userid, "move": move.move_id, "newest": move.claim}
    if not connection.execute(_COUNT_UP, mine).rowcount:
        raise ClaimLost(f"{move} was taken over by another worker")


def drop_marker(connection: Connection, move: Move) -> None:
    """Forget the claim, at a move's end."""
    connection.execute(
        delete(move_marker).where(
            move_marker.c.userid == move.userid, move_marker.c.move_id == move.move_id
        )
    )


def withdraw(connection: Connection, move: Move) -> None:
    """Take back what `stake` wrote, if nobody has written over it."""
    connection.execute(
        delete(move_marker).where(
            move_marker.c.userid == move.userid,
            move_marker.c.move_id == move.move_id,
            move_marker.c.claim == move.claim,
        )
    )


# --- Destination ---


def begin_import(connection: Connection, move: Move) -> None:
    """Put up the destination's fence as ``importing``, with the coming epoch.

    Raises:
        ClaimLost: see `guard`.
        Contradiction: the destination takes itself for the user's home.
    """
    guard(connection, move)
    values = {
        "state": IMPORTING,
        "epoch": move.home_epoch + 1,
        "readonly": False,
        "move_id": move.move_id,
    }
    with suppress(IntegrityError):  # as a rule the user has never been here
        connection.execute(insert(user_home).values(userid=move.userid, **values))
        return
    home = read_home(connection, move.userid, exclusive=True)
    assert home is not None
    ours = home.epoch == move.home_epoch + 1 and _move_id(connection, move) == move.move_id
    # A home with an older epoch was left long ago, and only its tombstone is missing.
    if home.state in (ACTIVE, FROZEN) and home.epoch >= move.home_epoch and not ours:
        raise Contradiction(
            f"{move}: cluster {move.dst} has the user {home.state} with epoch {home.epoch}, while "
            f"global has them on cluster {move.src} with epoch {move.home_epoch}"
        )
    connection.execute(update(user_home).where(user_home.c.userid == move.userid).values(**values))


def is_importing(connection: Connection, move: Move) -> bool:
    """Whether the destination's fence is up for this move, whoever has the claim."""
    home = _home(connection, move)
    if home is None or home.state != IMPORTING:
        return False
    return _move_id(connection, move) == move.move_id


def importing(connection: Connection, move: Move) -> None:
    """Make sure, until the transaction ends, that this move may write rows here.

    Raises:
        ClaimLost: it may not (any more).
    """
    row = connection.execute(_IMPORTING, {"whom": move.userid, "move": move.move_id}).first()
    wanted = (move.move_id, move.claim, IMPORTING, move.home_epoch + 1)
    if row is None or (int(row[0]), int(row[1]), row[2], int(row[3])) != wanted:
        raise ClaimLost(f"{move}: the destination is not (or no longer) open for this worker")


def activate(connection: Connection, move: Move, readonly: bool, schema_ver: int) -> None:
    """Make the destination ready to be home: nobody has a route with its epoch yet.

    Args:
        connection: in a transaction that `importing` has allowed.
        move: whose.
        readonly: as on the frozen source.
        schema_ver: likewise; the rows that were copied are in it.
    """
    connection.execute(
        _ACTIVATE, {"whom": move.userid, "frozen_readonly": readonly, "version": schema_ver}
    )


def deactivate(connection: Connection, move: Move) -> None:
    """Undo `activate`, when the commit point was not reached."""
    guard(connection, move)
    connection.execute(
        update(user_home)
        .where(
            user_home.c.userid == move.userid,
            user_home.c.state == ACTIVE,
            user_home.c.epoch == move.home_epoch + 1,
            user_home.c.move_id == move.move_id,
        )
        .values(state=IMPORTING, readonly=False)
    )


def drop_import(connection: Connection, move: Move) -> None:
    """Take the destination's fence row away, once its rows are."""
    connection.execute(
        delete(user_home).where(
            user_home.c.userid == move.userid,
            user_home.c.state == IMPORTING,
            user_home.c.move_id == move.move_id,
        )
    )


# --- Source ---


@dataclass(frozen=True, slots=True)
class Frozen:
    """What the source said when it was frozen."""

    marker: int
    """The marker's ``n`` that the feed must show."""
    readonly: bool
    schema_ver: int
    since: float
    """When writers began to be held, by this process's monotonic clock."""


def freeze(connection: Connection, move: Move, wait_ms: int) -> Frozen:
    """Hold the user's writes, and leave the marker, in one transaction.

    Args:
        connection: a fresh write transaction on the source.
        move: whose.
        wait_ms: how long a writer's open transaction is waited for; meanwhile new writers
            queue up behind this one.

    Raises:
        ClaimLost: see `guard`.
        NotQuick: a writer's transaction stayed open.
        Contradiction: the source is not the user's active home.
    """
    _count_up(connection, move)
    server = connection.dialect.name != "sqlite"
    mariadb = bool(getattr(connection.dialect, "is_mariadb", False))
    head = f"SET STATEMENT max_statement_time={wait_ms / 1000:.3f} FOR " if mariadb else ""
    since = time.monotonic()
    try:
        if server and not mariadb:  # MySQL waits for locks in whole seconds, or not at all
            connection.execute(
                select(user_home.c.userid)
                .where(user_home.c.userid == move.userid)
                .with_for_update(nowait=True)
            )
        changed = connection.execute(
            text(
                f"{head}UPDATE user_home SET state = 'frozen', move_id = :move_id "  # noqa: S608
                "WHERE userid = :userid AND state = 'active' AND epoch = :epoch"
            ),
            {"move_id": move.move_id, "userid": move.userid, "epoch": move.home_epoch},
        ).rowcount
    except DBAPIError as error:
        if error_number(error) in _NOT_IN_TIME:
            raise NotQuick(f"a writer kept the user locked for over {wait_ms} ms") from None
        raise
    row = connection.execute(_HOME_AND_MARKER, {"whom": move.userid}).one()
    if not changed:
        raise Contradiction(
            f"{move}: cluster {move.src} has the user {row.state or 'not'} with epoch "
            f"{row.epoch or '-'}, expected active with epoch {move.home_epoch}"
        )
    home = home_from_row(row)
    return Frozen(int(row.n), home.readonly, home.schema_ver, since)


def thaw(connection: Connection, move: Move) -> bool:
    """Let the user write again on the source; returns whether they were frozen by this move."""
    guard(connection, move)
    return bool(
        connection.execute(
            update(user_home)
            .where(
                user_home.c.userid == move.userid,
                user_home.c.state == FROZEN,
                user_home.c.epoch == move.home_epoch,
                user_home.c.move_id == move.move_id,
            )
            .values(state=ACTIVE, move_id=None)
        ).rowcount
    )


def bury(connection: Connection, move: Move) -> None:
    """Leave the tombstone on the source, past the commit point; more than once does no harm."""
    guard(connection, move)
    connection.execute(_BURY, {"whom": move.userid, "left": move.home_epoch})


def buried(connection: Connection, move: Move) -> bool:
    """Whether the source's rows are this move's to purge, for as long as the transaction lasts."""
    guard(connection, move)
    home = read_home(connection, move.userid)
    return home is not None and home.state == MOVED and home.epoch == move.home_epoch


def _home(connection: Connection, move: Move) -> Home | None:
    row = connection.execute(
        select(
            user_home.c.state, user_home.c.epoch, user_home.c.readonly, user_home.c.schema_ver
        ).where(user_home.c.userid == move.userid)
    ).first()
    return None if row is None else home_from_row(row)


def _move_id(connection: Connection, move: Move) -> int | None:
    found = connection.scalar(select(user_home.c.move_id).where(user_home.c.userid == move.userid))
    return None if found is None else int(found)
