"""A journal: its posts, its owner's profile, its feed, and being listed as a friend."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from starlette.responses import RedirectResponse, Response

from lj_services.journal import feed, friends, posts
from lj_services.journal.security import Security
from lj_services.journal.tables import profile
from lj_services.journal.visit import Visit
from lj_services.usercluster import User

SHOWN_FRIENDS = 200
FEED_POSTS = 25


def show(visit: Visit) -> Response:
    """The newest posts, a page at a time."""
    owner = visit.owner()
    viewer = visit.viewer
    size = visit.kit.settings.page_size
    with visit.reading_cleared(owner) as (connection, cleared):
        found = posts.newest(
            connection, owner.userid, cleared, limit=size + 1, before=visit.asked("before")
        )
        about = connection.execute(
            select(profile.c.title, profile.c.about).where(profile.c.userid == owner.userid)
        ).first()
    listed = False
    if viewer is not None and viewer.userid != owner.userid:
        with visit.reading(viewer) as connection:
            listed = friends.trusts(connection, viewer.userid, owner.userid)
    shown = found[:size]
    return visit.render(
        "journal.html",
        owner=owner,
        title=about.title if about is not None else "",
        about=about.about if about is not None else "",
        posts=shown,
        older=shown[-1].postid if len(found) > size else None,
        paged=visit.asked("before") is not None,
        listed=listed,
        trusted=cleared is Security.FRIENDS,
        debug_owner=owner.userid,
    )


def old_address(visit: Visit) -> Response:
    """``/users/NAME``, as it was."""
    return RedirectResponse(f"/~{visit.owner().name}", 301)


def show_profile(visit: Visit) -> Response:
    """Who someone is, whom they read, and who reads them."""
    owner = visit.owner()
    with visit.reading(owner) as connection:
        reads = friends.edges(connection, owner.userid, most=SHOWN_FRIENDS).friends
        read_by = friends.listed_by(connection, owner.userid, most=SHOWN_FRIENDS)
        about = connection.execute(
            select(profile.c.title, profile.c.about).where(profile.c.userid == owner.userid)
        ).first()
    people = visit.kit.users.get_many([*reads, *read_by])

    def names(userids: Sequence[int]) -> list[User]:
        found = [people[userid] for userid in userids if userid in people]
        return sorted(found, key=lambda user: user.name)

    return visit.render(
        "profile.html",
        owner=owner,
        title=about.title if about is not None else "",
        about=about.about if about is not None else "",
        reads=names(reads),
        read_by=names(read_by),
        most=SHOWN_FRIENDS,
        debug_owner=owner.userid,
    )


def show_feed(visit: Visit) -> Response:
    """The public posts as an Atom feed; the same for everybody, so caches may keep it."""
    owner = visit.owner()
    with visit.reading(owner) as connection:
        found = posts.newest(connection, owner.userid, Security.PUBLIC, limit=FEED_POSTS)
        title = connection.scalar(select(profile.c.title).where(profile.c.userid == owner.userid))
    document = feed.atom(visit.kit.url, owner, title or owner.name, found)
    tag = feed.entity_tag(document)
    headers = {"ETag": tag, "Cache-Control": "public, max-age=60"}
    if tag in visit.request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(document, media_type="application/atom+xml", headers=headers)


def add_friend(visit: Visit) -> Response:
    """List the journal's owner as a friend."""
    viewer, owner = visit.need_viewer(), visit.owner()
    friends.add(visit.kit.users, viewer.userid, owner, most=visit.kit.settings.max_friends)
    visit.wrote(viewer)
    return visit.redirect(f"/~{owner.name}")


def remove_friend(visit: Visit) -> Response:
    """Take the journal's owner off the list."""
    viewer, owner = visit.need_viewer(), visit.owner()
    friends.remove(visit.kit.users, viewer.userid, owner)
    visit.wrote(viewer)
    return visit.redirect(f"/~{owner.name}")
