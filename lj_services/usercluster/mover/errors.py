"""What can go wrong with a move, and what becomes of it."""

from __future__ import annotations

from lj_services.usercluster.errors import UserClusterError


class MoveError(UserClusterError):
    """Base of the mover's errors."""


class MoveRefused(MoveError):
    """The move can't be: it is not begun, or ends as failed with everything put back."""


class UnknownMove(MoveError):
    """There is no move of that number."""


class AlreadyMoving(MoveRefused):
    """The user is being moved by another move."""


class SameCluster(MoveRefused):
    """The user lives there already."""


class ClusterFull(MoveRefused):
    """The destination has no room for the user."""


class SchemaDiffers(MoveRefused):
    """Source and destination do not have the same tables."""


class Unclassified(MoveRefused):
    """A table of a cluster is of a kind that can't be moved safely."""


class RowsDiffer(MoveRefused):
    """A chunk's checksum differs between source and destination, with no write to explain it."""


class ClaimLost(MoveError):
    """Another worker has taken the move over (or it was ended): stop, touch nothing more."""


class Superseded(ClaimLost):
    """A newer move of the same user has a cluster in its charge."""


class EndAsked(MoveError):
    """Somebody asked that the move be undone."""


class HandBack(MoveError):
    """The move is to be given back as far as it is, for another worker or another time."""


class NotQuick(MoveError):
    """The freeze would last longer than its limit: the user was let go, nothing has changed."""


class FeedLost(MoveError):
    """The source's change feed broke or can't be continued; the move is tried again."""


class Contradiction(MoveError):
    """`global` and the move's record can't both be right: an operator has to look."""
