"""What a feed has for one user: the keys that are dirty, and whether the marker came by.

Keys that the decoder can't be trusted with are cut down to their trusted beginning.  Integers are
good (made unsigned here where the table's columns are), and text in UTF-8; raw bytes are not, since
they are decoded as text where the server does not describe its columns.  At worst the key is
``()``, which means all of the user's rows in that table.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

from lj_services.usercluster.mover.binlog import Place
from lj_services.usercluster.mover.discovery import Column, Schema, Table
from lj_services.usercluster.mover.rows import Key

_INTEGER_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
_UTF8 = {"utf8mb4", "utf8mb3", "utf8", "ascii"}


class DirtyKeys(Protocol):
    """The changes of one user's rows, by their keys: from a feed, or from triggers (`noting`)."""

    @property
    def pending(self) -> int:
        """See `Subscription`."""

    def take(self) -> tuple[dict[str, set[Key]], Place]:
        """See `Subscription`."""

    def give_back(self, dirty: dict[str, set[Key]]) -> None:
        """See `Subscription`."""

    def wait(self, marker: int, timeout_s: float) -> bool:
        """See `Subscription`."""

    def close(self) -> None:
        """See `Subscription`."""


class Subscription:
    """What a feed has for one user.

    Made by `Feed.subscribe`; to be closed.
    """

    def __init__(
        self,
        userid: int,
        schema: Schema,
        place: Place,
        claim: tuple[int, int],
        changed: threading.Condition,
        unsubscribe: Callable[[Subscription], None],
    ) -> None:
        self.userid = userid
        self.claim = claim
        self.tables = {table.name: Decoder(table) for table in schema.tables}
        self._unsubscribe = unsubscribe
        self._dirty: dict[str, set[Key]] = defaultdict(set)
        self._marker = 0
        self._place = place
        self._error: Exception | None = None
        self._changed = changed

    def close(self) -> None:
        """Want no more."""
        self._unsubscribe(self)

    @property
    def pending(self) -> int:
        """How many keys wait."""
        return sum(len(keys) for keys in self._dirty.values())

    def take(self) -> tuple[dict[str, set[Key]], Place]:
        """The dirty keys by table, and the place that is reached once they are worked off.

        Raises:
            FeedLost: the feed is broken.
            SchemaDiffers: a table has changed under the move.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            taken, self._dirty = dict(self._dirty), defaultdict(set)
            return taken, self._place

    def give_back(self, dirty: dict[str, set[Key]]) -> None:
        """Put keys back that were taken and could not be worked off."""
        with self._changed:
            for name, keys in dirty.items():
                self._dirty[name] |= keys

    def wait(self, marker: int, timeout_s: float) -> bool:
        """Wait until the feed has shown the user's marker; False: not in time."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._marker >= marker or self._error is not None, timeout_s
            )
            if self._error is not None:
                raise self._error
            return self._marker >= marker

    # Called by the feed's thread, under its lock.

    def saw(self, table: str, images: list[list[Any]]) -> None:
        """A row changed: note its keys."""
        decoder = self.tables.get(table)
        if decoder is None:
            return
        for values in images:
            self._dirty[table].add(decoder.key(values))

    def saw_marker(self, n: int) -> None:
        """The marker came by."""
        self._marker = max(self._marker, n)

    def reached(self, place: Place) -> None:
        """A transaction's end came by."""
        self._place = place

    def fail(self, error: Exception) -> None:
        """The feed is broken for good."""
        self._error = self._error or error


class Decoder:
    """Keys of one table's rows as the decoder gives them.

    Args:
        table: which.
    """

    def __init__(self, table: Table) -> None:
        names = [column.name for column in table.columns]
        self.columns = len(names)
        self.userid_at = names.index("userid")
        self._user = table.columns[self.userid_at]
        self._parts = []
        for column in table.key:
            if not _trusted(column):
                break
            self._parts.append((names.index(column.name), column))

    def userid(self, values: list[Any]) -> int:
        """Whose row it is."""
        return int(_exact(self._user, values[self.userid_at]))

    def key(self, values: list[Any]) -> Key:
        """Its key, or as much of its beginning as can be trusted."""
        return tuple(_exact(column, values[at]) for at, column in self._parts)


def _trusted(column: Column) -> bool:
    if column.kind in _INTEGER_BITS:
        return True
    # Text of other character sets and raw bytes are decoded as UTF-8 when the server does not
    # send its columns' descriptions, and then they are not what they were.
    return column.kind in {"char", "varchar"} and column.charset in _UTF8


def _exact(column: Column, value: Any) -> Any:
    if column.kind in _INTEGER_BITS:
        number = int(value)
        if column.unsigned and number < 0:
            number += 1 << _INTEGER_BITS[column.kind]
        return number
    return value
