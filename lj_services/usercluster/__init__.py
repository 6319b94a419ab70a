"""Users partitioned over numbered clusters: who lives where, and who may write.

Where things are, along the way of one write, ``with users.writing(userid) as connection``::

    users.py         Users: the front door
    routes.py        userid -> cluster and epoch; memcached in front of `global`
    fence.py         the rule that makes moves safe: read the fence row first
    numberspaces.py  the next number for a post, a comment, a picture

and of a sign-up, ``users.create("bob")``::

    creation.py      reserve the name, plant the fence row, let the user exist
    placement.py     which cluster: weight times free space
    disks.py         how large and how full a cluster's disk is

and of a change in the form of users' rows, ``lj users upgrade``::

    versions.py      the version a user's rows are in, and the declared steps to the next
    upgrade.py       a user's step: rows and version in one transaction, under the fence

``balance/`` finds out who should live elsewhere.

``tables.py`` is the schema, ``migrations/`` makes it, ``config.py`` the operator's rules.

The data rules: every row on a cluster has ``userid`` first in its primary key and is
never numbered by AUTO_INCREMENT; every write for a user goes through `Users.writing`;
reads need no fence.  A table that keeps these rules can be moved with its user.
"""

from lj_services.database import Component
from lj_services.usercluster.config import UserSettings
from lj_services.usercluster.errors import (
    BadName,
    Downgrade,
    HomeMissing,
    NameTaken,
    NoCluster,
    NoRoom,
    UnknownUser,
    UnknownVersion,
    UserBusy,
    UserClusterError,
    UserReadOnly,
)
from lj_services.usercluster.routes import User
from lj_services.usercluster.users import Users

COMPONENT = Component("usercluster", "lj_services.usercluster")
"""The tables of this package, for ``lj db migrate``."""

__all__ = [
    "COMPONENT",
    "BadName",
    "Downgrade",
    "HomeMissing",
    "NameTaken",
    "NoCluster",
    "NoRoom",
    "UnknownUser",
    "UnknownVersion",
    "User",
    "UserBusy",
    "UserClusterError",
    "UserReadOnly",
    "UserSettings",
    "Users",
]
