"""What can go wrong with users and their clusters."""

from __future__ import annotations


class UserClusterError(Exception):
    """Base of this package's errors."""


class BadName(UserClusterError):
    """The name is not one that a user can have."""


class NameTaken(UserClusterError):
    """A user of that name exists."""


class UnknownUser(UserClusterError):
    """There is no such user."""


class NoCluster(UserClusterError):
    """There is no cluster of that number."""


class NoRoom(NoCluster):
    """No cluster takes new users now: full, out of reach, or without weight."""


class UnknownVersion(UserClusterError):
    """There is no such ``schema_ver``, or this program does not know it."""


class Downgrade(UserClusterError):
    """The user's rows are in a later ``schema_ver``; there is no way back."""


class UserReadOnly(UserClusterError):
    """The user is read-only: nothing of theirs may be written until that is lifted."""


class UserBusy(UserClusterError):
    """The user is just being moved and stayed frozen for longer than one waits; try again."""


class HomeMissing(UserClusterError):
    """`global` routes the user to a cluster whose fence does not know them: nothing is written."""
