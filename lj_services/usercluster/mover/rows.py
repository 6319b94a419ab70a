"""One user's rows in one table of a cluster: reading, writing, summing; on either engine.

The mover never looks into a row.  It asks an engine (`rows_server`, `rows_sqlite`) for a
chunk of rows in a form that the same engine takes again unchanged, and for sums of rows
that the database computes of that very form: what is sent is what is summed.

A *key* is a row's primary key without ``userid``; a table whose key is ``userid`` alone has
the one key ``()``.  A *span* says which rows are meant: a range of keys, open at the start
and closed at the end, or a set of keys or beginnings of keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection

from lj_services.usercluster.mover.discovery import Schema, Table

Key = tuple[Any, ...]
"""int, str or bytes each."""


@dataclass(frozen=True, slots=True)
class Range:
    """Rows with `after` < key <= `upto`; None: no bound."""

    after: Key | None = None
    upto: Key | None = None

    def __str__(self) -> str:
        start = "from the start" if self.after is None else f"after {shown(self.after)}"
        return f"{start} to {'the end' if self.upto is None else shown(self.upto)}"


@dataclass(frozen=True, slots=True)
class Keys:
    """Rows whose keys begin with one of `prefixes`; ``()`` means all of the user's."""

    prefixes: tuple[Key, ...]

    def __str__(self) -> str:
        few = ", ".join(shown(key) for key in self.prefixes[:5])
        if len(self.prefixes) == 1:
            return f"key {few}"
        return f"{len(self.prefixes)} keys: {few}{', ...' if len(self.prefixes) > 5 else ''}"


Span = Range | Keys

EVERYTHING = Range()


@dataclass(frozen=True, slots=True)
class Sum:
    """What a span of rows comes to: how many, and two independent 64-bit folds."""

    count: int
    first: int
    second: int

    def with_more(self, other: Sum) -> Sum:
        """Of both spans together."""
        return Sum(self.count + other.count, self.first ^ other.first, self.second ^ other.second)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows as an engine takes them again."""

    rows: Sequence[Any]
    """For `Rows.put`: each by itself, or several together."""
    count: int
    """How many rows they are."""
    last: Key | None
    """The key after which the next chunk begins; None: the span ends with this one."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Print:
    """A database's fingerprint: while it is the same, so is the schema (and the log's settings)."""

    text: str
    settled: bool
    """Whether any later change would change it; not so within a server's tick of the last one."""


class Rows(Protocol):
    """What an engine can do; every method works inside the caller's transaction."""

    def fingerprint(self, connection: Connection) -> Print | None:
        """Whether the schema is still the one that was read, for little; None: nobody tells."""

    def schema(self, connection: Connection, place: str) -> Schema:
        """What the cluster's database has.

        Raises:
            Unclassified: a table can't be moved.
        """

    def chunk(
        self,
        connection: Connection,
        table: Table,
        userid: int,
        span: Span,
        limit: int | None,
        *,
        lock: bool,
    ) -> Chunk:
        """The first rows of a span in the order of their keys.

        Args:
            limit: about how many, of a range without an end; None: all.  Of very long rows
                there may be fewer.
            lock: with a shared lock on each until the transaction ends; so also rows show
                whose change is already in the binary log.
        """

    def chunks(
        self, connection: Connection, tables: Sequence[Table], userid: int
    ) -> dict[str, Chunk]:
        """All of a user's rows by table, with locks: for a user who has few."""

    def edge(
        self, connection: Connection, table: Table, userid: int, after: Key | None, rows: int
    ) -> Key | None:
        """The key that is `rows` rows further than `after`; None if there are not so many."""

    def put(self, connection: Connection, table: Table, rows: Sequence[Any]) -> None:
        """Write rows; what is there under the same key, or another unique one, goes."""

    def erase(
        self, connection: Connection, table: Table, userid: int, span: Span, limit: int | None
    ) -> int:
        """Delete the rows of a span, `limit` at most; returns how many went."""

    def sum(
        self,
        connection: Connection,
        table: Table,
        userid: int,
        span: Span,
        *,
        lock: bool = False,
    ) -> Sum:
        """Sum a span's rows."""

    def each(
        self,
        connection: Connection,
        table: Table,
        userid: int,
        span: Span,
        *,
        lock: bool = False,
    ) -> dict[Key, str]:
        """A digest of each row of a span, by key."""

    def sums(self, connection: Connection, tables: Sequence[Table], userid: int) -> dict[str, Sum]:
        """Sum all of a user's rows, each table by itself."""

    def counts(
        self, connection: Connection, tables: Sequence[Table], userid: int
    ) -> dict[str, int]:
        """How many rows the user has in each table, without locks."""

    def highest(
        self, connection: Connection, table: Table, userid: int, column: str, span: Span
    ) -> int:
        """The highest number in a column within a span; 0 for none."""


def shown(key: Key) -> str:
    """A key for people."""
    return "(" + ", ".join(repr(part)[:60] for part in key) + ")"


def frozen_key(key: Key | None) -> list[Any] | None:
    """A key as JSON takes it."""
    if key is None:
        return None
    return [{"hex": part.hex()} if isinstance(part, bytes) else part for part in key]


def thawed_key(parts: list[Any] | None) -> Key | None:
    """A key from what `frozen_key` made."""
    if parts is None:
        return None
    return tuple(bytes.fromhex(p["hex"]) if isinstance(p, dict) else p for p in parts)
