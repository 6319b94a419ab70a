"""The friends page: the newest posts of many users, merged.

One read on the reader's own cluster tells their friends and who trusts them (see
`friends`); one multi-get brings the newest posts of all friends (see `recent`), which
are merged by time without decoding more than is shown.

Pages are addressed by the last post of the page before (`Place`), not by a count, so
that nothing is shown twice when posts come in between.  What the cache keeps of a user is
bounded; where a page needs older posts than that, they are read from the clusters,
again with one query for each.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from lj_services.journal.friends import Edges
from lj_services.journal.recent import Excerpt, Recent, RecentCache
from lj_services.journal.security import Security, clearance, may_see

_PLACE = re.compile(r"(\d{1,15})-(\d{1,10})-(\d{1,10})")

Place = tuple[int, int, int]
"""posted_ms, userid, postid: where a post stands among all others."""


@dataclass(frozen=True, slots=True)
class MergedPage:
    """Newest posts of several users."""

    posts: list[Excerpt]
    next: str | None
    """The place to go on from; None on the last page."""
    failed: list[int]
    """Clusters whose users are missing, since they could not be asked."""


def parse_place(text: str | None) -> Place | None:
    """Read a place from an address; None for what is none."""
    match = _PLACE.fullmatch(text or "")
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def friends_page(
    recents: RecentCache,
    known: Edges,
    viewer: int,
    *,
    limit: int,
    before: Place | None = None,
) -> MergedPage:
    """The newest posts of someone's friends that they may see.

    Args:
        recents: newest posts of users.
        known: the viewer's edges, read definitively: whom one is no longer trusted by
            shows nothing more.
        viewer: userid of whose friends page it is, and who looks at it.
        limit: posts on a page.
        before: the place after which the page starts.
    """
    return merged_page(
        recents,
        known.friends,
        lambda owner: clearance(owner, viewer, trusted=owner in known.trusted_by),
        limit=limit,
        before=before,
    )


def merged_page(
    recents: RecentCache,
    userids: Sequence[int],
    cleared: Callable[[int], Security],
    *,
    limit: int,
    before: Place | None = None,
) -> MergedPage:
    """The newest posts of some users.

    Args:
        recents: newest posts of users.
        userids: whose.
        cleared: the reader's clearance for a userid.
        limit: posts on a page.
        before: the place after which the page starts.
    """
    found, failed = recents.get_many(userids)
    if before is not None:
        # Users whose kept posts are all younger than this page: read on in the database.
        spent = [
            userid
            for userid, recent in found.items()
            if recent.more and _place(recent, -1) >= before
        ]
        if spent:
            older, failed_too = recents.older(spent, before[0])
            found.update(older)
            failed += failed_too
    streams = (
        _stream(recents, recent, cleared(userid), before, failed)
        for userid, recent in found.items()
    )
    merged = heapq.merge(*streams, key=lambda item: item[0], reverse=True)
    shown = list(islice(merged, limit + 1))
    posts = [recent.excerpt(index) for _, recent, index in shown[:limit]]
    place = "-".join(map(str, shown[limit - 1][0])) if len(shown) > limit else None
    return MergedPage(posts, place, sorted(set(failed)))


def _place(recent: Recent, index: int) -> Place:
    posted_ms, postid, _, _ = recent.entries[index]
    return posted_ms, recent.userid, postid


def _stream(
    recents: RecentCache,
    recent: Recent | None,
    cleared: Security,
    before: Place | None,
    failed: list[int],
) -> Iterator[tuple[Place, Recent, int]]:
    """One user's posts that are open to the reader, newest first, read as far as they are asked.

    A user's posts have rising times (see `posts.write`), so this order is that of places.
    """
    while recent is not None:
        for index, entry in enumerate(recent.entries):
            place = entry[0], recent.userid, entry[1]
            if (before is None or place < before) and may_see(entry[2], cleared):
                yield place, recent, index
        if not recent.more:
            return
        before = _place(recent, -1)
        older, failed_now = recents.older([recent.userid], before[0])
        failed += failed_now
        recent = older.get(recent.userid)
