"""The steps of a user's ``schema_ver`` (see `lj_services.usercluster.versions`).

Version 2: ``post.places`` says how many comments a post has, deleted ones too, which is what
the limit of comments counts.  In version 1 every new comment counts the rows.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select, update

from lj_services.journal.tables import comment, post
from lj_services.usercluster import versions

PLACES = 2
"""From this version on ``post.places`` is kept."""


def count_places(connection: Connection, userid: int) -> None:
    """Bring a user from version 1 to 2."""
    counted = (
        select(func.count())
        .where(comment.c.userid == post.c.userid, comment.c.postid == post.c.postid)
        .scalar_subquery()
    )
    connection.execute(update(post).where(post.c.userid == userid).values(places=counted))


versions.declare(PLACES, "posts know how many comments they have", count_places)
