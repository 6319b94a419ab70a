"""Posts: written, changed, deleted, listed.

A post is one row on its owner's cluster.  Whoever reads says with which clearance
(see `security`); whoever writes is the owner.  Each write is put between
`RecentCache.changing`, so that no friends page keeps the old text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from markupsafe import Markup
from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from lj_services.journal.clock import now_ms
from lj_services.journal.errors import NotFound
from lj_services.journal.recent import RecentCache
from lj_services.journal.security import Security, may_see
from lj_services.journal.tables import comment, post
from lj_services.journal.text import to_html
from lj_services.usercluster import User, Users, numberspaces


@dataclass(frozen=True, slots=True)
class Draft:
    """What an author writes."""

    subject: str
    body: str
    security: Security
    mood: str = ""
    music: str = ""
    markup: bool = False
    """Whether the body is HTML; it must have been cleaned."""


@dataclass(frozen=True, slots=True)
class Post:
    """A post as it is stored."""

    userid: int
    postid: int
    security: Security
    posted_ms: int
    edited_ms: int | None
    comments: int
    """How many comments are there that were not deleted."""
    subject: str
    mood: str
    music: str
    body: str
    markup: bool = False
    """Whether the body is HTML, which was cleaned before it was stored."""

    @property
    def html(self) -> Markup:
        """The body for a page."""
        return Markup(self.body) if self.markup else to_html(self.body)  # noqa: S704

    @property
    def changed_ms(self) -> int:
        """When its text last changed."""
        return self.edited_ms or self.posted_ms


_SHOWN = [post.c[field.name] for field in fields(Post)]


def _post(row: RowMapping) -> Post:
    values: dict[str, Any] = dict(row)
    values["security"] = Security(values["security"])
    values["markup"] = bool(values["markup"])
    return Post(**values)


def write(users: Users, recents: RecentCache, author: User, draft: Draft) -> int:
    """Publish a post.

    Returns:
        its postid; the post is on disk.

    Raises:
        UserReadOnly, UserBusy, DatabaseError: nothing was written; see `Users.writing`.
    """
    with recents.changing(author.userid), users.writing(author) as connection:
        postid = numberspaces.allocate(connection, author.userid, "post")
        newest_ms = connection.scalar(
            select(post.c.posted_ms)
            .where(post.c.userid == author.userid)
            .order_by(post.c.postid.desc())
            .limit(1)
        )
        connection.execute(
            insert(post).values(
                userid=author.userid,
                postid=postid,
                # Rises with the postid, also when the clock steps back: pages rely on it.
                posted_ms=max(now_ms(), (newest_ms or 0) + 1),
                edited_ms=None,
                comments=0,
                **_columns(draft),
            )
        )
    return postid


def change(users: Users, recents: RecentCache, author: User, postid: int, draft: Draft) -> None:
    """Replace the text of a post, and who may see it.

    Raises:
        NotFound: there is no such post.
        UserReadOnly, UserBusy, DatabaseError: nothing was changed.
    """
    with recents.changing(author.userid), users.writing(author) as connection:
        changed = connection.execute(
            update(post)
            .where(post.c.userid == author.userid, post.c.postid == postid)
            .values(edited_ms=now_ms(), **_columns(draft))
        )
        if not changed.rowcount:
            raise NotFound("There is no such post.")


def remove(users: Users, recents: RecentCache, author: User, postid: int) -> None:
    """Delete a post and its comments.

    Raises:
        NotFound: there is no such post.
        UserReadOnly, UserBusy, DatabaseError: nothing was deleted.
    """
    with recents.changing(author.userid), users.writing(author) as connection:
        gone = connection.execute(
            delete(post).where(post.c.userid == author.userid, post.c.postid == postid)
        )
        if not gone.rowcount:
            raise NotFound("There is no such post.")
        connection.execute(
            delete(comment).where(comment.c.userid == author.userid, comment.c.postid == postid)
        )


def find(connection: Connection, owner: int, postid: int, cleared: Security) -> Post:
    """Read one post.

    Args:
        connection: reads the owner's cluster.
        owner: userid of the owner.
        postid: which one.
        cleared: the reader's clearance.

    Raises:
        NotFound: there is none, or it is not open to the reader: nobody can tell which.
    """
    row = (
        connection.execute(select(*_SHOWN).where(post.c.userid == owner, post.c.postid == postid))
        .mappings()
        .first()
    )
    if row is None or not may_see(row["security"], cleared):
        raise NotFound("There is no such post, or it is not open to you.")
    return _post(row)


def newest(
    connection: Connection,
    owner: int,
    cleared: Security,
    *,
    limit: int,
    before: int | None = None,
) -> Sequence[Post]:
    """The newest posts of a journal that are open to a reader.

    Args:
        connection: reads the owner's cluster.
        owner: userid of the owner.
        cleared: the reader's clearance.
        limit: how many at most.
        before: only those with a lower postid: the last one of the page before.
    """
    query = select(*_SHOWN).where(post.c.userid == owner, post.c.security.between(0, cleared))
    if before is not None:
        query = query.where(post.c.postid < before)
    rows = connection.execute(query.order_by(post.c.postid.desc()).limit(limit)).mappings()
    return [_post(row) for row in rows]


def _columns(draft: Draft) -> dict[str, Any]:
    return {
        "security": int(draft.security),
        "subject": draft.subject,
        "mood": draft.mood,
        "music": draft.music,
        "body": draft.body,
        "markup": int(draft.markup),
    }
