"""The site's tables; ``migrations/`` makes them.

`login` is in ``global``, all others are on the clusters: every primary key there
starts with ``userid``, so that a user's rows can be moved together.  Times are
milliseconds since 1970 (UTC).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

from lj_services.usercluster import numberspaces

metadata = MetaData()


def _key(name: str) -> Column[int]:
    return Column(name, Integer, primary_key=True, autoincrement=False)


login = Table(
    "login",
    metadata,
    _key("userid"),
    Column("password_hash", String(255), nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
)
profile = Table(
    "profile",
    metadata,
    _key("userid"),
    Column("title", String(100), nullable=False),
    Column("about", String(2000), nullable=False),
)
session = Table(
    "session",
    metadata,
    _key("userid"),
    _key("sessionid"),
    Column("token_hash", String(64), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("browser", String(200), nullable=False),
)
post = Table(
    "post",
    metadata,
    _key("userid"),
    _key("postid"),
    Column("security", Integer, nullable=False),
    Column("posted_ms", BigInteger, nullable=False),
    Column("edited_ms", BigInteger),
    Column("comments", Integer, nullable=False),
    Column("subject", String(200), nullable=False),
    Column("mood", String(60), nullable=False),
    Column("music", String(120), nullable=False),
    Column("body", Text, nullable=False),
    Column("places", Integer, nullable=False, server_default="0"),
    Column("markup", SmallInteger, nullable=False, server_default="0"),
)
comment = Table(
    "comment",
    metadata,
    _key("userid"),
    _key("commentid"),
    Column("postid", Integer, nullable=False),
    Column("parentid", Integer, nullable=False),
    Column("authorid", Integer, nullable=False),
    Column("posted_ms", BigInteger, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("body", Text, nullable=False),
)
friend = Table(
    "friend",
    metadata,
    _key("userid"),
    _key("friendid"),
    Column("seq", Integer, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
)
friendof = Table(
    "friendof",
    metadata,
    _key("userid"),
    _key("friendid"),
    Column("seq", Integer, nullable=False),
    Column("live", Boolean, nullable=False),
)

numberspaces.declare("session", session.c.sessionid)
numberspaces.declare("post", post.c.postid, comment.c.postid)
numberspaces.declare("comment", comment.c.commentid)
numberspaces.declare("friend", friend.c.seq)
