"""A user's newest posts as one value in the cache: what friends pages are made of.

The value.  Key ``(userid, "recent:<userid>")``, so that it lies on the server that the
userid picks.  Bytes, big-endian::

    "LJR1"  name length: u8  more: u8  count: u16
    name (ASCII)
    count x (posted_ms: u64, postid: u32, security: u8, end of the document: u32)
    the documents, one after the other, each JSON and zipped by itself

Private posts are not in it.  `more` says that the user has older ones.  A friends page
that merges 200 such values reads their times and levels, and unzips and decodes only the
documents of the posts that it shows.  (Were the value zipped as a whole, as the client does
with long ones that gain by it, all 200 would have to be unzipped: that was 4 of 10 ms.)

Staleness.  Fills and changes are kept apart by leases and marks (leases.py): a change marks
the key before its transaction, and a fill that read the database before a commit is not stored
after it.  Readers that find a lease or a mark read the database (the writer, not a replica
that lags), and show what they find.

A user may have moved between the look-up of their route and the lease, and been written to at
their new home: no mark of that change is waited for any more.  So what was read is stored only
if the cluster says afterwards that they live there still (`fence.active_here`).

What leases.py tells of as left lasts for at most ``recent_expire_s``.  A post's own page always
asks the database.
"""

from __future__ import annotations

import contextvars
import json
import logging
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from prometheus_client import Counter

from lj_services.database import DatabaseError, Databases, cluster_role
from lj_services.journal.leases import Leases
from lj_services.journal.security import Security
from lj_services.journal.text import excerpt, plain, to_html
from lj_services.memcached.client import CasResult, Client
from lj_services.usercluster import User, Users, fence

log = logging.getLogger(__name__)

LOOKUPS = Counter(
    "lj_journal_recent_lookups_total", "users' newest posts asked of the cache", ("result",)
)
HIT, MISS = LOOKUPS.labels("hit"), LOOKUPS.labels("miss")

MAGIC = b"LJR1"
_HEAD = struct.Struct(">4sBBH")
_ENTRY = struct.Struct(">QIBI")
_MOST_PER_QUERY = 100

RowsOf = Callable[[str, Sequence[str]], Iterable[Sequence[Any]]]
"""The rows of queries on the writer of a database role.  Raises `DatabaseError`."""
Entry = tuple[int, int, int, int]
"""posted_ms, postid, security, end of the document."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A post as a friends page shows it."""

    userid: int
    author: str
    postid: int
    security: Security
    posted_ms: int
    comments: int
    subject: str
    mood: str
    music: str
    body: str
    cut: bool
    """Whether the post goes on."""

    @property
    def html(self) -> Markup:
        """The body for a page; of a post in HTML only the words were kept."""
        return to_html(self.body)


class Recent:
    """A user's newest posts, decoded as far as they are used."""

    __slots__ = ("_documents", "_value", "entries", "more", "name", "userid")

    def __init__(self, userid: int, value: bytes) -> None:
        """
        Raises:
            ValueError: `value` was not made by `encode`.
        """
        try:
            magic, length, more, count = _HEAD.unpack_from(value)
            if magic != MAGIC:
                raise ValueError("not a value of recent posts")
            start = _HEAD.size + length
            self._documents = start + count * _ENTRY.size
            self.entries: list[Entry] = list(_ENTRY.iter_unpack(value[start : self._documents]))
            self.name = value[_HEAD.size : start].decode("ascii")
        except struct.error as error:
            raise ValueError(f"not a value of recent posts: {error}") from None
        if len(self.entries) != count or (
            count and self._documents + self.entries[-1][3] != len(value)
        ):
            raise ValueError("a value of recent posts is cut short")
        self.userid = userid
        self.more = bool(more)
        self._value = value

    def excerpt(self, index: int) -> Excerpt:
        """Decode one post: the `index`-th of `entries`."""
        posted_ms, postid, security, end = self.entries[index]
        start = self.entries[index - 1][3] if index else 0
        zipped = self._value[self._documents + start : self._documents + end]
        document = json.loads(zlib.decompress(zipped))
        return Excerpt(self.userid, self.name, postid, Security(security), posted_ms, **document)


def encode(name: str, rows: Sequence[Sequence[Any]], *, more: bool, length: int) -> bytes:
    """Make the value.

    Args:
        name: the user's.
        rows: (userid, postid, security, posted_ms, comments, subject, mood, music, body,
            markup), newest first.
        more: whether there are older posts.
        length: characters of a body that are kept.
    """
    entries, documents, end = [], [], 0
    for _, postid, security, posted_ms, comments, subject, mood, music, body, markup in rows:
        text, cut = excerpt(plain(body) if markup else body, length)
        document = json.dumps(
            {
                "comments": comments,
                "subject": subject,
                "mood": mood,
                "music": music,
                "body": text,
                "cut": cut or len(body) > length,
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )
        zipped = zlib.compress(document.encode())
        end += len(zipped)
        entries.append(_ENTRY.pack(posted_ms, postid, security, end))
        documents.append(zipped)
    head = _HEAD.pack(MAGIC, len(name), more, len(entries))
    return b"".join([head, name.encode("ascii"), *entries, *documents])


class RecentCache:
    """Newest posts of many users: one round to the cache, then one query per cluster.

    Args:
        databases: has the clusters.
        users: the site's users.
        cache: None for none; then everything is read from the databases.
        posts: how many of a user's newest posts are kept.
        length: characters of a post that are kept.
        expire_s: seconds that a value is kept.
        rows: runs a query on a cluster's writer, and is called for all clusters at the same
            time; None: on connections of this process.
    """

    def __init__(
        self,
        databases: Databases,
        users: Users,
        cache: Client | None,
        *,
        posts: int,
        length: int,
        expire_s: int,
        rows: RowsOf | None = None,
    ) -> None:
        self._rows = rows or self._rows_here
        self._databases = databases
        self._users = users
        self._cache = cache
        self._leases = Leases(cache) if cache is not None else None
        self._posts = posts
        self._length = length
        self._expire_s = expire_s
        self._threads = ThreadPoolExecutor(
            max_workers=max(4, 2 * len(databases.clusters())), thread_name_prefix="recent"
        )

    def close(self) -> None:
        """End the threads that ask the clusters."""
        self._threads.shutdown(wait=False)

    def changing(self, userid: int) -> AbstractContextManager[None]:
        """Around the write transaction that changes what a user's newest posts are.

        The block's errors pass through.
        """
        return nullcontext() if self._leases is None else self._leases.changing(_key(userid))

    def get_many(self, userids: Iterable[int]) -> tuple[dict[int, Recent], list[int]]:
        """The newest posts of many users.

        Returns:
            what was found, and the clusters that could not be asked.  Users that do not
            exist are in neither.
        """
        wanted = list(userids)
        found: dict[int, Recent] = {}
        if self._cache is not None and wanted:
            cached = self._cache.get_many([_key(userid) for userid in wanted])
            for (userid, _), value in cached.items():
                if isinstance(value, bytes) and value.startswith(MAGIC):
                    try:
                        found[userid] = Recent(userid, value)
                    except ValueError:
                        log.warning("unreadable value in the cache", extra={"userid": userid})
        HIT.inc(len(found))
        missing = [userid for userid in wanted if userid not in found]
        if not missing:
            return found, []
        MISS.inc(len(missing))
        fresh, failed = self._on_clusters(missing, self._fill)
        found.update(fresh)
        return found, failed

    def older(self, userids: Iterable[int], before_ms: int) -> tuple[dict[int, Recent], list[int]]:
        """As `get_many`, but their newest posts of before a moment (inclusive); never cached."""

        def read(cluster: int, some: Sequence[User]) -> dict[int, Recent]:
            return _decode(self._query(cluster, some, before_ms))

        return self._on_clusters(list(userids), read)

    def _on_clusters(
        self, userids: Sequence[int], work: Callable[[int, Sequence[User]], dict[int, Recent]]
    ) -> tuple[dict[int, Recent], list[int]]:
        """Let each cluster do `work` for its users, all at the same time."""
        by_cluster: dict[int, list[User]] = {}
        for user in self._users.get_many(userids).values():
            by_cluster.setdefault(user.clusterid, []).append(user)
        running = {
            cluster: self._threads.submit(contextvars.copy_context().run, work, cluster, some)
            for cluster, some in by_cluster.items()
        }
        found: dict[int, Recent] = {}
        failed = []
        for cluster, future in running.items():
            try:
                found.update(future.result())
            except DatabaseError as error:
                log.warning("a cluster does not answer: %s", error, extra={"cluster": cluster})
                failed.append(cluster)
        return found, failed

    def _fill(self, cluster: int, some: Sequence[User]) -> dict[int, Recent]:
        leases = {user.userid: self._lease(user.userid) for user in some}
        values = self._query(cluster, some, None)
        if self._cache is not None:
            for userid in self._at_home(cluster, [u for u in some if leases[u.userid] is not None]):
                value, lease = values[userid], leases[userid]
                stored = self._cache.cas(_key(userid), value, lease, self._expire_s)
                if stored is not CasResult.STORED:
                    log.debug("a fill came too late", extra={"userid": userid})
        return _decode(values)

    def _at_home(self, cluster: int, some: Sequence[User]) -> set[int]:
        """Userids of those who live on a cluster still, after their posts were read there."""
        if not some:
            return set()
        home: set[int] = set()
        with self._databases.read(cluster_role(cluster), definitive=True) as connection:
            for start in range(0, len(some), _MOST_PER_QUERY):
                home |= fence.active_here(connection, some[start : start + _MOST_PER_QUERY])
        return home

    def _lease(self, userid: int) -> Any:
        """The cas number to store a user's value by; None when it must not be stored now."""
        return None if self._leases is None else self._leases.take(_key(userid))

    def _query(self, cluster: int, some: Sequence[User], before_ms: int | None) -> dict[int, bytes]:
        """Values of users who live on one cluster: one query for up to 100 of them."""
        names = {user.userid: user.name for user in some}
        rows: dict[int, list[Any]] = {userid: [] for userid in names}
        userids = list(names)
        queries = [
            self._sql(userids[start : start + _MOST_PER_QUERY], before_ms)
            for start in range(0, len(userids), _MOST_PER_QUERY)
        ]
        for row in self._rows(cluster_role(cluster), queries):
            rows[row[0]].append(tuple(row))
        return {
            userid: encode(
                names[userid],
                own[: self._posts],
                more=len(own) > self._posts,
                length=self._length,
            )
            for userid, own in rows.items()
        }

    def _rows_here(self, role: str, queries: Sequence[str]) -> Iterator[Sequence[Any]]:
        with self._databases.read(role, definitive=True) as connection:
            for sql in queries:
                yield from connection.exec_driver_sql(sql)

    def _sql(self, userids: Sequence[int], before_ms: int | None) -> str:
        """For each user the end of their range of the primary key, all in one statement.

        Only integers of our own are written into it.  A window function would read all
        posts of every user.
        """
        until = "" if before_ms is None else f" AND posted_ms <= {int(before_ms)}"
        parts = (
            "SELECT * FROM (SELECT userid, postid, security, posted_ms, comments, subject, mood, "  # noqa: S608
            f"music, SUBSTR(body, 1, {self._length + 1}) AS body, markup FROM post "
            f"WHERE userid = {int(userid)} AND security < {int(Security.PRIVATE)}{until} "
            f"ORDER BY postid DESC LIMIT {self._posts + 1}) AS u{int(userid)}"
            for userid in userids
        )
        return " UNION ALL ".join(parts)


def _decode(values: Mapping[int, bytes]) -> dict[int, Recent]:
    return {userid: Recent(userid, value) for userid, value in values.items()}


def _key(userid: int) -> tuple[int, str]:
    return userid, f"recent:{userid}"
