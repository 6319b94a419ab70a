"""Working off dirty keys: the destination's rows become the source's, and that is checked.

For each batch of keys: read their rows on the source with locks and sum them there; on the
destination, in one transaction, delete the keys, write the rows, sum them, compare, commit.  A key
without a row on the source is thereby deleted.  Since the batch is compared at once, what was
worked off need never be verified again: only a new change of the key can make it differ, and the
feed would show that.

While the user is not frozen a row can be inserted between the read and the sum on the source;
its key is dirty then, and the batch is simply done again.  Batches that keep differing, or differ
while the user is frozen, are an error that nothing explains: `RowsDiffer`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sqlalchemy import Connection

from lj_services.usercluster.mover import fences, numbers
from lj_services.usercluster.mover.discovery import Table
from lj_services.usercluster.mover.errors import FeedLost, NotQuick, RowsDiffer
from lj_services.usercluster.mover.metrics import KEYS
from lj_services.usercluster.mover.passes import mend
from lj_services.usercluster.mover.rows import Key, Keys
from lj_services.usercluster.mover.subscription import DirtyKeys
from lj_services.usercluster.mover.work import Work

BATCH = 300
TRIES = 5
Dirty = dict[str, set[Key]]


@dataclass(slots=True)
class Follower:
    """Keeps the destination behind the source by what the feed says."""

    work: Work
    subscription: DirtyKeys
    ceilings: numbers.Ceilings = field(default_factory=dict)
    """The highest number seen in each numberspace's columns."""

    def catch_up(self, enough: int, seconds: float) -> bool:
        """Work off keys until few are left.

        Args:
            enough: stop when at most so many wait.
            seconds: give up after so long.

        Returns:
            whether there are few enough.
        """
        until = time.monotonic() + seconds
        while True:
            self.once()
            if self.subscription.pending <= enough:
                return True
            if time.monotonic() > until:
                return False

    def drain(self, timeout_s: float = 30.0) -> Dirty:
        """Wait until the feed has shown all that is committed by now, and take what is dirty.

        Raises:
            FeedLost: the marker did not come.
        """
        with self.work.databases.write(self.work.src) as connection:
            marker = fences.raise_marker(connection, self.work.move)
        try:
            return self.up_to(marker, timeout_s)
        except NotQuick as error:
            raise FeedLost(str(error)) from None

    def up_to(self, marker: int, timeout_s: float) -> Dirty:
        """Wait for a marker that was written, and take what is dirty.

        Raises:
            NotQuick: it did not come in time.
        """
        if not self.subscription.wait(marker, timeout_s):
            raise NotQuick(f"the change feed was more than {timeout_s * 1000:.0f} ms behind")
        return self.subscription.take()[0]

    def once(self) -> int:
        """Work off what is dirty now; returns how many keys."""
        dirty, place = self.subscription.take()
        done = self.apply(dirty)
        self.work.progress["place"] = [place.server_id, place.file, place.pos]
        self.work.progress["behind"] = self.subscription.pending
        return done

    def apply(self, dirty: Dirty) -> int:
        """Work off keys, each batch in its own transactions; returns how many."""
        done = 0
        try:
            for table, keys in self._tables(dirty):
                for batch in _batches(keys):
                    self.work.check()
                    self._settle(table, batch)
                    done += len(batch.prefixes)
        except BaseException:
            self.subscription.give_back(dirty)
            raise
        return done

    def apply_frozen(self, source: Connection, destination: Connection, dirty: Dirty) -> None:
        """Work off keys while the source stands still, in transactions of the caller.

        Raises:
            RowsDiffer: the destination's rows did not become the source's.
        """
        for table, keys in self._tables(dirty):
            if table.key and () in keys:
                mend(self.work, source, destination, table)
                continue
            for batch in _batches(keys):
                if not self._transfer(source, destination, table, batch):
                    raise RowsDiffer(f"{self.work.move}: table {table}, {batch}: checksums differ")

    def _tables(self, dirty: Dirty) -> Iterator[tuple[Table, set[Key]]]:
        for name, keys in dirty.items():
            table = self.work.found.table(name)
            if table is not None and keys:
                yield table, keys

    def _settle(self, table: Table, batch: Keys) -> None:
        for _ in range(TRIES):
            with (
                self.work.locking(self.work.src) as source,
                self.work.databases.write(self.work.dst) as destination,
            ):
                fences.importing(destination, self.work.move)
                if table.key and () in batch.prefixes:
                    mend(self.work, source, destination, table)
                    return
                if self._transfer(source, destination, table, batch):
                    return
        raise RowsDiffer(
            f"{self.work.move}: table {table}, {batch}: checksums differ, {TRIES} times over"
        )

    def _transfer(
        self, source: Connection, destination: Connection, table: Table, batch: Keys
    ) -> bool:
        rows, userid = self.work.rows, self.work.move.userid
        chunk = rows.chunk(source, table, userid, batch, None, lock=True)
        here = rows.sum(source, table, userid, batch)
        numbers.look(self.ceilings, rows, source, table, userid, batch)
        rows.erase(destination, table, userid, batch, None)
        rows.put(destination, table, chunk.rows)
        KEYS.inc(len(batch.prefixes))
        return rows.sum(destination, table, userid, batch) == here


def _batches(keys: Iterable[Key]) -> Iterator[Keys]:
    ordered = sorted(keys, key=lambda key: (len(key), key))
    if ordered and ordered[0] == ():
        yield Keys(((),))
        return
    for start in range(0, len(ordered), BATCH):
        yield Keys(tuple(ordered[start : start + BATCH]))
