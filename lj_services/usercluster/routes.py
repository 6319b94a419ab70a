"""A user's route: who they are and which cluster they live on; memcached in front of `global`.

Theory of operation.  Two keys: ``uid:<name>`` -> userid, which never changes, and
``user:<userid>`` -> the user's row, pinned to the userid's cache server.

A cached row must not be older than one that was cached before: a reader that read
the database before a change, and writes to the cache after it, would bring the old
row back.  So the row carries ``rev``, which grows with every change, and nobody ever
just sets it: `Routes.remember` adds it, or replaces (by cas) one with a lower ``rev``.
Whoever changes a row remembers the new one, which then stands in the way of the
late reader.

What is left: the new value is evicted, or its cache server is lost, within the
moment between a slow reader's read and its add.  Then the old row stays for at
most ``route_ttl_s``.  A write on that route meets the fence, which sends it back to
`global`; a read sees the source rows of the move, which are kept for longer.

Rows for the cache are read from the writer of `global`, never from a replica that may lag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import select

from lj_services.database import Databases
from lj_services.usercluster.errors import UnknownUser
from lj_services.usercluster.tables import LIVE, user

Key = str | tuple[int, str]


class Cache(Protocol):
    """What is used of `lj_services.memcached`'s client."""

    def get(self, key: Key, default: Any = None) -> Any: ...
    def get_many(self, keys: Iterable[Key]) -> Mapping[Any, Any]: ...
    def gets(self, key: Key) -> tuple[Any, Any] | None: ...
    def set(self, key: Key, value: Any, expire_s: int = 0) -> bool: ...
    def add(self, key: Key, value: Any, expire_s: int = 0) -> bool: ...
    def cas(self, key: Key, value: Any, cas: Any, expire_s: int = 0) -> Any: ...


@dataclass(frozen=True, slots=True)
class User:
    """A user and their route."""

    userid: int
    name: str
    clusterid: int
    epoch: int
    """Which home this is: grows by one with every move."""
    readonly: bool
    schema_ver: int
    """Which version of the per-user tables their data is in."""
    rev: int = 1
    """Which version of this row this is: grows by one with every change."""


COLUMNS = (
    user.c.userid,
    user.c.name,
    user.c.clusterid,
    user.c.epoch,
    user.c.readonly,
    user.c.schema_ver,
    user.c.rev,
)
"""What `user_from_row` wants, in order."""


def user_from_row(row: Iterable[Any]) -> User:
    """A `User` of a row of `COLUMNS`, from the database or the cache."""
    userid, name, clusterid, epoch, readonly, schema_ver, rev = row
    return User(
        int(userid),
        str(name),
        int(clusterid),
        int(epoch),
        bool(readonly),
        int(schema_ver),
        int(rev),
    )


class Routes:
    """Looks users up.

    Args:
        databases: has the role ``global``.
        cache: None for none.
        ttl_s: how long the cache keeps a row, in seconds.
    """

    def __init__(self, databases: Databases, cache: Cache | None, ttl_s: int) -> None:
        self._databases = databases
        self._cache = cache
        self._ttl_s = ttl_s

    def find(self, name: str) -> User:
        """Look up by name.

        Raises:
            UnknownUser: nobody has it.
        """
        key = f"uid:{name}"
        userid = self._cache.get(key) if self._cache is not None and len(name) <= 25 else None
        if isinstance(userid, int):
            return self.get(userid)
        with self._databases.read("global", definitive=True) as connection:
            row = connection.execute(
                select(*COLUMNS).where(user.c.name == name, user.c.state == LIVE)
            ).first()
        if row is None:
            raise UnknownUser(f"there is no user {name!r}")
        found = user_from_row(row)
        if self._cache is not None:
            self._cache.add(key, found.userid, self._ttl_s)
        self.remember(found)
        return found

    def get(self, userid: int) -> User:
        """Look up by userid, in the cache first.

        Raises:
            UnknownUser: there is none.
        """
        if self._cache is not None:
            cached = _read_cached(self._cache.get(_key(userid)), userid)
            if cached is not None:
                return cached
        return self.reload(userid)

    def get_many(self, userids: Iterable[int]) -> dict[int, User]:
        """Look up many in one round; those who do not exist are left out."""
        wanted = list(dict.fromkeys(userids))
        found: dict[int, User] = {}
        if self._cache is not None and wanted:
            cached = self._cache.get_many([_key(userid) for userid in wanted])
            for userid in wanted:
                hit = _read_cached(cached.get(_key(userid)), userid)
                if hit is not None:
                    found[userid] = hit
        missing = [userid for userid in wanted if userid not in found]
        for start in range(0, len(missing), 500):
            with self._databases.read("global", definitive=True) as connection:
                rows = connection.execute(
                    select(*COLUMNS).where(
                        user.c.userid.in_(missing[start : start + 500]), user.c.state == LIVE
                    )
                ).all()
            for row in rows:
                fresh = user_from_row(row)
                found[fresh.userid] = fresh
                self.remember(fresh)
        return {userid: found[userid] for userid in wanted if userid in found}

    def reload(self, userid: int) -> User:
        """Look up in `global` itself, and correct the cache.

        Raises:
            UnknownUser: there is none.
        """
        with self._databases.read("global", definitive=True) as connection:
            row = connection.execute(
                select(*COLUMNS).where(user.c.userid == userid, user.c.state == LIVE)
            ).first()
        if row is None:
            raise UnknownUser(f"there is no user with userid {userid}")
        fresh = user_from_row(row)
        self.remember(fresh)
        return fresh

    def correct(self, userid: int) -> None:
        """See to it that the cache has a user's row as it is in `global` now.

        Raises:
            UnknownUser: there is none.
        """
        if self._cache is not None:
            self.reload(userid)

    def remember(self, fresh: User) -> None:
        """Put a row that was read from `global` into the cache, unless a newer one is there.

        Whoever changes a user's row calls it after the commit.
        """
        if self._cache is None:
            return
        key = _key(fresh.userid)
        value = [
            fresh.userid,
            fresh.name,
            fresh.clusterid,
            fresh.epoch,
            fresh.readonly,
            fresh.schema_ver,
            fresh.rev,
        ]
        for _ in range(5):  # each turn lost means that another one got something in
            if self._cache.add(key, value, self._ttl_s):
                return
            got = self._cache.gets(key)
            if got is None:
                continue
            cached = _read_cached(got[0], fresh.userid)
            if cached is not None and cached.rev >= fresh.rev:
                return
            self._cache.cas(key, value, got[1], self._ttl_s)


def _key(userid: int) -> Key:
    return (userid, f"user:{userid}")


def _read_cached(value: Any, userid: int) -> User | None:
    """The user in a cached value; None for a miss and for what is not such a value."""
    try:
        found = user_from_row(value)
    except (TypeError, ValueError):
        return None
    return found if found.userid == userid else None
