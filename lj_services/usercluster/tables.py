"""The tables of users, as SQLAlchemy sees them; the migrations make them.

``global`` holds who exists and where; every cluster holds the fence and the
numberspaces of those who live there.  Each table of a cluster has ``userid`` first
in its primary key: that is how a mover finds what is a user's.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

global_metadata = MetaData()
cluster_metadata = MetaData()

CREATING: Final = "creating"
"""`user.state`: the name is reserved, the home not yet sure; nobody sees such a user."""
LIVE: Final = "live"
"""`user.state`: exists."""

user = Table(
    "user",
    global_metadata,
    Column("userid", Integer, primary_key=True, autoincrement=False),
    Column("name", String(25), nullable=False, unique=True),
    Column("state", String(10), nullable=False),
    Column("clusterid", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("readonly", Boolean, nullable=False),
    Column("schema_ver", Integer, nullable=False),
    Column("rev", Integer, nullable=False),
    Column("created_at", DateTime, nullable=False),
    UniqueConstraint("clusterid", "userid", name="user_clusterid"),
)
"""Who exists and where they live; the truth that routes are read from.

``epoch`` grows with every change of home, ``rev`` with every change of the row.
"""

counter = Table(
    "counter",
    global_metadata,
    Column("area", String(16), primary_key=True),
    Column("max", BigInteger, nullable=False),
)
"""Site-wide numberspaces; ``user`` is the one of userids."""

ACTIVE: Final = "active"
FROZEN: Final = "frozen"
IMPORTING: Final = "importing"
MOVED: Final = "moved"

user_home = Table(
    "user_home",
    cluster_metadata,
    Column("userid", Integer, primary_key=True, autoincrement=False),
    Column("state", String(10), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("readonly", Boolean, nullable=False),
    Column("move_id", BigInteger),
    Column("schema_ver", Integer, nullable=False, server_default="1"),
)
"""The fence (see `fence`): one row per user who lives here, or lived here (``moved``)."""

usercounter = Table(
    "usercounter",
    cluster_metadata,
    Column("userid", Integer, primary_key=True, autoincrement=False),
    Column("area", String(16), primary_key=True),
    Column("max", BigInteger, nullable=False),
)
"""The users' numberspaces: the highest number that was ever given out."""
