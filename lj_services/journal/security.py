"""Who may see what: the one place where it is decided.

A post is public, for friends, or private.  What someone may see of a journal is a
single number, their *clearance*: the highest security level that is open to them.
Every query and every page compares a post's level with a clearance that
`clearance` gave; nothing else in the package decides about visibility.

"For friends" means: for those whom the owner has listed as friends.  That the
reader lists the owner opens nothing.

Source: LiveJournal's ``security`` of entries (public, usemask, private).
"""

from __future__ import annotations

from enum import IntEnum


class Security(IntEnum):
    """How far a post is open; ordered, the most open one first."""

    PUBLIC = 0
    FRIENDS = 1
    PRIVATE = 2


def clearance(owner: int, viewer: int | None, *, trusted: bool) -> Security:
    """The highest level of `owner`'s posts that `viewer` may see.

    Args:
        owner: userid of the journal's owner.
        viewer: userid of who looks; None for someone who is not logged in.
        trusted: whether the owner lists the viewer as a friend.  It is ignored for
            someone who is not logged in.
    """
    if viewer is None:
        return Security.PUBLIC
    if viewer == owner:
        return Security.PRIVATE
    return Security.FRIENDS if trusted else Security.PUBLIC


def may_see(level: int, cleared: Security) -> bool:
    """Whether a post of `level` is open to someone with clearance `cleared`.

    A level that is none of `Security` is open to nobody.
    """
    return Security.PUBLIC <= level <= cleared
