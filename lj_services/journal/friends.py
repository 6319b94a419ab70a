"""Friends: whom one reads and trusts; an edge is kept on two clusters.

Each edge "A lists B" has two rows::

    friend    on A's cluster (userid A, friendid B)   the truth: A trusts B, A reads B
    friendof  on B's cluster (userid B, friendid A)   a copy, so that B's friends page learns
                                                      with one query who trusts B

No transaction spans clusters, so the rule is about what a crash, or two requests at
once, may leave behind: **a live friendof row never stands without its friend row**.
A missing copy only hides something (B's friends page leaves out A's friends-only posts,
while A's pages show them); one too many would show B what A has taken back.

So adding writes ``friend`` first and the copy after it; removing takes the copy
away first.  Two requests that overlap are put in order by ``seq``, a number from A's
numberspace "friend" that each change draws before it does anything: a copy is changed only
by a higher ``seq``, and a removal deletes only a ``friend`` row with a lower one.  A removed
copy stays as a row that is not live, which remembers the ``seq``.

Why it holds.  Say a copy is live with seq s.  It was written after ``friend`` had s.
Only a removal with a seq r > s could have deleted that row, and it first had to raise the
copy to r, not live; a later step of the adding request, with s < r, changes nothing.

A journal and a post page ask the truth, of the writer of the owner's cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from lj_services.journal.clock import now_ms
from lj_services.journal.errors import NotAllowed, TooMany
from lj_services.journal.tables import friend, friendof
from lj_services.usercluster import User, Users, numberspaces


@dataclass(frozen=True, slots=True)
class Edges:
    """The edges of one user, from their own cluster."""

    friends: Sequence[int]
    """Userids of those whom they list, in order."""
    trusted_by: frozenset[int]
    """Userids of those among `friends` who list them, as the copies tell."""


def trusts(connection: Connection, owner: int, viewer: int) -> bool:
    """Whether `owner` lists `viewer`: the truth.

    Args:
        connection: reads the owner's cluster.
        owner: userid of whose posts it is about.
        viewer: userid of who looks.
    """
    row = connection.execute(
        select(friend.c.seq).where(friend.c.userid == owner, friend.c.friendid == viewer)
    ).first()
    return row is not None


def edges(connection: Connection, userid: int, *, most: int) -> Edges:
    """Whom one user lists, and who of these lists them.

    Anybody may list anybody; so that a crowd of strangers can't push friends out of what is
    read, only those who are listed in return are.

    Args:
        connection: reads the user's cluster.
        userid: whose.
        most: friends that are read at most.
    """
    friends = connection.execute(
        select(friend.c.friendid)
        .where(friend.c.userid == userid)
        .order_by(friend.c.friendid)
        .limit(most)
    ).scalars()
    trusted_by = connection.execute(
        select(friendof.c.friendid)
        .where(friendof.c.userid == userid, friendof.c.live.is_(True))
        .where(friendof.c.friendid.in_(select(friend.c.friendid).where(friend.c.userid == userid)))
    ).scalars()
    return Edges(list(friends), frozenset(trusted_by))


def listed_by(connection: Connection, userid: int, *, most: int) -> Sequence[int]:
    """Userids of some who list a user as a friend, as the copies tell.

    Args:
        connection: reads the user's cluster.
        userid: whom.
        most: how many at most.
    """
    rows = connection.execute(
        select(friendof.c.friendid)
        .where(friendof.c.userid == userid, friendof.c.live.is_(True))
        .order_by(friendof.c.friendid)
        .limit(most)
    )
    return list(rows.scalars())


def add(users: Users, userid: int, other: User, *, most: int) -> None:
    """List `other` as a friend; harmless if it is so already.

    Raises:
        NotAllowed: it is the same user.
        TooMany: the user has `most` friends.
        UserReadOnly: one of both is.  The user's own row may have been written then.
        UserBusy, DatabaseError: likewise; the same call again completes it.
    """
    if userid == other.userid:
        raise NotAllowed("You can't list yourself as a friend; you see your own posts anyway.")
    with users.writing(userid) as connection:
        seq = numberspaces.allocate(connection, userid, "friend")
        key = (friend.c.userid == userid) & (friend.c.friendid == other.userid)
        changed = connection.execute(update(friend).where(key).values(seq=seq))
        if not changed.rowcount:
            count = connection.scalar(select(func.count()).where(friend.c.userid == userid)) or 0
            if count >= most:
                raise TooMany(f"You list {most} friends; that is as many as there can be.")
            connection.execute(
                insert(friend).values(
                    userid=userid, friendid=other.userid, seq=seq, since_ms=now_ms()
                )
            )
    _set_copy(users, userid, other, seq, live=True)


def remove(users: Users, userid: int, other: User) -> None:
    """Take `other` off the list; harmless if they are not on it.

    Raises:
        UserReadOnly: one of both is: nothing was changed, or only the copy.
        UserBusy, DatabaseError: likewise; the same call again completes it.
    """
    with users.writing(userid) as connection:
        seq = numberspaces.allocate(connection, userid, "friend")
    _set_copy(users, userid, other, seq, live=False)
    with users.writing(userid) as connection:
        connection.execute(
            delete(friend).where(
                friend.c.userid == userid, friend.c.friendid == other.userid, friend.c.seq < seq
            )
        )


def _set_copy(users: Users, userid: int, other: User, seq: int, *, live: bool) -> None:
    """Bring the copy on the other's cluster to `seq`, unless it is further already."""
    key = (friendof.c.userid == other.userid) & (friendof.c.friendid == userid)
    while True:
        try:
            with users.writing(other) as connection:
                found = connection.scalar(select(friendof.c.seq).where(key).with_for_update())
                if found is None:
                    connection.execute(
                        insert(friendof).values(
                            userid=other.userid, friendid=userid, seq=seq, live=live
                        )
                    )
                elif found < seq:
                    connection.execute(update(friendof).where(key).values(seq=seq, live=live))
            return
        except IntegrityError:
            continue  # another request made the row in between: now it can be locked
