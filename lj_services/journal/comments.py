"""Comments: threads below a post, on the cluster of the journal's owner.

A comment names the comment that it answers (0: the post itself).  A page of a long
thread reads the whole skeleton of the discussion (numbers, no texts), decides which
part to show, and reads the texts of that part alone.  Deleting takes the text away
and leaves the place, so that the answers keep their context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from lj_services.journal.clock import now_ms
from lj_services.journal.errors import NotAllowed, NotFound, TooMany
from lj_services.journal.friends import trusts
from lj_services.journal.recent import RecentCache
from lj_services.journal.security import clearance, may_see
from lj_services.journal.tables import comment, post
from lj_services.journal.upgrades import PLACES
from lj_services.usercluster import User, Users, numberspaces, versions

DEEPEST = 8
"""Answers below this level are no longer indented."""


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment as a page shows it."""

    commentid: int
    parentid: int
    authorid: int
    posted_ms: int
    deleted: bool
    depth: int
    """How many comments are above it, 0 for an answer to the post; at most `DEEPEST`."""
    body: str


@dataclass(frozen=True, slots=True)
class ThreadPage:
    """A part of a post's discussion, whole threads at a time."""

    comments: list[Comment]
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class Branch:
    """One comment of a discussion's skeleton."""

    commentid: int
    parentid: int


def write(
    users: Users,
    recents: RecentCache,
    owner: User,
    author: User,
    postid: int,
    parentid: int,
    body: str,
    *,
    most: int,
) -> int:
    """Add a comment.

    That the author may see the post is checked in the transaction that writes.

    Args:
        users: the site's users.
        recents: learns that the number of comments has changed.
        owner: whose journal it is.
        author: who comments.
        postid: the post.
        parentid: the comment that is answered, or 0.
        body: cleaned text.
        most: how many comments a post may have.

    Returns:
        its commentid.

    Raises:
        NotFound: the post is not there, or not open to the author.
        NotAllowed: the answered comment is gone.
        TooMany: the post has `most` comments.
        UserReadOnly, UserBusy, DatabaseError: nothing was written.
    """
    with recents.changing(owner.userid), users.writing(owner) as connection:
        row = connection.execute(
            select(post.c.security, post.c.places)
            .where(post.c.userid == owner.userid, post.c.postid == postid)
            .with_for_update()
        ).first()
        cleared = clearance(
            owner.userid,
            author.userid,
            trusted=trusts(connection, owner.userid, author.userid),
        )
        if row is None or not may_see(row.security, cleared):
            raise NotFound("There is no such post, or it is not open to you.")
        here = (comment.c.userid == owner.userid) & (comment.c.postid == postid)
        if parentid:
            parent = connection.execute(
                select(comment.c.deleted).where(here, comment.c.commentid == parentid)
            ).first()
            if parent is None or parent.deleted:
                raise NotAllowed("The comment that you answered has been deleted.")
        if versions.of(connection) >= PLACES:
            taken = int(row.places)
        else:
            taken = connection.scalar(select(func.count()).where(here)) or 0
        if taken >= most:
            raise TooMany(f"This post has {most} comments; it takes no more.")
        commentid = numberspaces.allocate(connection, owner.userid, "comment")
        connection.execute(
            insert(comment).values(
                userid=owner.userid,
                commentid=commentid,
                postid=postid,
                parentid=parentid,
                authorid=author.userid,
                posted_ms=now_ms(),
                deleted=False,
                body=body,
            )
        )
        _count(connection, owner.userid, postid, +1, places=1)
    return commentid


def remove(
    users: Users, recents: RecentCache, owner: User, viewer: User, postid: int, commentid: int
) -> None:
    """Delete a comment: its author and the journal's owner may.

    Raises:
        NotFound: there is none, or its post is not open to `viewer`: nobody can tell which.
        NotAllowed: `viewer` is neither of the two.
        UserReadOnly, UserBusy, DatabaseError: nothing was deleted.
    """
    with recents.changing(owner.userid), users.writing(owner) as connection:
        this = (
            (comment.c.userid == owner.userid)
            & (comment.c.commentid == commentid)
            & (comment.c.postid == postid)
        )
        row = connection.execute(
            select(comment.c.authorid, comment.c.deleted).where(this).with_for_update()
        ).first()
        if row is None:
            raise NotFound("There is no such comment.")
        if viewer.userid not in (row.authorid, owner.userid):
            cleared = clearance(
                owner.userid,
                viewer.userid,
                trusted=trusts(connection, owner.userid, viewer.userid),
            )
            level = connection.scalar(
                select(post.c.security).where(
                    post.c.userid == owner.userid, post.c.postid == postid
                )
            )
            if level is None or not may_see(level, cleared):
                raise NotFound("There is no such comment.")
            raise NotAllowed("Only its author and the owner of the journal can delete a comment.")
        if not row.deleted:
            connection.execute(update(comment).where(this).values(deleted=True, body=""))
            _count(connection, owner.userid, postid, -1)


def thread_page(
    connection: Connection, owner: int, postid: int, *, page: int, size: int
) -> ThreadPage:
    """One page of a post's discussion; the reader was found to be allowed to see the post.

    Args:
        connection: reads the owner's cluster.
        owner: userid of the owner.
        postid: the post.
        page: from 1; one that is not there shows the last.
        size: comments after which a page ends, with its last thread.
    """
    here = (comment.c.userid == owner) & (comment.c.postid == postid)
    skeleton = [
        Branch(commentid, parentid)
        for commentid, parentid in connection.execute(
            select(comment.c.commentid, comment.c.parentid)
            .where(here)
            .order_by(comment.c.commentid)
        )
    ]
    pages = _paginate(_in_order(skeleton), size)
    page = max(1, min(page, len(pages)))
    shown = dict(pages[page - 1]) if pages else {}
    found: dict[int, Comment] = {}
    numbers = list(shown)
    for start in range(0, len(numbers), 500):
        rows = connection.execute(
            select(comment).where(here, comment.c.commentid.in_(numbers[start : start + 500]))
        )
        for row in rows:
            found[row.commentid] = Comment(
                commentid=row.commentid,
                parentid=row.parentid,
                authorid=row.authorid,
                posted_ms=row.posted_ms,
                deleted=bool(row.deleted),
                depth=shown[row.commentid],
                body=row.body,
            )
    return ThreadPage([found[n] for n in numbers if n in found], page, max(1, len(pages)))


def _in_order(skeleton: Sequence[Branch]) -> list[tuple[int, int]]:
    """(commentid, depth) as they are read: each comment followed by its answers.

    Without recursion, since a thread may be as deep as it is long.  A comment whose
    parent is not there stands at the top.
    """
    known = {branch.commentid for branch in skeleton}
    answers: dict[int, list[int]] = {}
    for branch in skeleton:
        # An answer is always younger than what it answers, so this can't be a circle.
        above = branch.parentid if branch.parentid in known else 0
        above = above if above < branch.commentid else 0
        answers.setdefault(above, []).append(branch.commentid)
    ordered = []
    waiting = [(commentid, 0) for commentid in reversed(answers.get(0, []))]
    while waiting:
        commentid, depth = waiting.pop()
        ordered.append((commentid, min(depth, DEEPEST)))
        waiting += [(answer, depth + 1) for answer in reversed(answers.get(commentid, []))]
    return ordered


def _paginate(ordered: Sequence[tuple[int, int]], size: int) -> list[list[tuple[int, int]]]:
    """Cut into pages of at least `size` comments, between threads; one long thread is cut anyway
    at ten times that."""
    pages: list[list[tuple[int, int]]] = []
    for commentid, depth in ordered:
        full = bool(pages) and len(pages[-1]) >= size
        if not pages or (full and (depth == 0 or len(pages[-1]) >= 10 * size)):
            pages.append([])
        pages[-1].append((commentid, depth))
    return pages


def _count(connection: Connection, owner: int, postid: int, by: int, *, places: int = 0) -> None:
    """Note comments that came or went, and places that were taken."""
    values: dict[str, Any] = {"comments": post.c.comments + by}
    if places and versions.of(connection) >= PLACES:
        values["places"] = post.c.places + places
    connection.execute(
        update(post).where(post.c.userid == owner, post.c.postid == postid).values(**values)
    )
