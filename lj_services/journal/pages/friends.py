"""The friends page: the newest posts of all whom one has listed."""

from __future__ import annotations

from starlette.responses import Response

from lj_services.journal.friends import edges
from lj_services.journal.friendspage import friends_page, parse_place
from lj_services.journal.visit import Visit


def show(visit: Visit) -> Response:
    """The newest posts of the visitor's friends, across all clusters."""
    viewer = visit.need_viewer()
    before = parse_place(visit.request.query_params.get("before"))
    with visit.reading(viewer, definitive=True) as connection:
        known = edges(connection, viewer.userid, most=visit.kit.settings.max_friends)
    with visit.timed("friends' posts"):
        page = friends_page(
            visit.kit.recents,
            known,
            viewer.userid,
            limit=visit.kit.settings.friends_page_size,
            before=before,
        )
    return visit.render(
        "friends.html",
        page=page,
        friends=len(known.friends),
        paged=before is not None,
        debug_owner=viewer.userid,
    )
