"""The source's binary log as a stream of dirty keys: who changed what, never to what.

Theory of operation.  A `Feed` reads one cluster's binary log in a thread, as a replica would, and
notes for each user who has subscribed the primary keys of the rows that were inserted, changed
or deleted.  What a key's row looks like is then read from the source itself (`follow`).  So it
does not matter that the decoder is not faithful to values, that an event comes twice, or in what
order keys are worked off: each one only says "look here again".

- *Nothing is missed.*  A subscription exists before the first row is read.  A change is either
  visible to that read, or its event comes later, or it came before and is not visible yet:
  with semi-synchronous replication (AFTER_SYNC) the binary log is ahead of what readers see,
  seconds at worst.  Against the last case every read after an event locks the row, and so waits
  for the transaction.
- *The end is known.*  The freezing transaction writes the user's marker row.  When the feed
  shows its ``n``, everything that was committed before has been shown.
- *Tables are who they say.*  Row events name their table by a number that is good within one life
  of the server.  All numbers are forgotten at the beginning of each file of the log.
- *A position* is a place between two transactions.  Breaks (a lost connection, a restarted server)
  are mended by reading again from the last position; so is a move that another worker takes up.
  Reading twice is harmless.  The library's own reconnection is not used (`stream`), since it goes
  on in the middle of a transaction, where the descriptions of tables are missing.

*Writes are counted by the way*: row changes of every user of the cluster, subscribed or not, since
they all come by.  A transaction counts once, when its end comes by for the first time, however
often it is read; one that was committed before the reading began does not count.  What becomes of
the counts: `rates`.

*Decoding takes most of the time*, so what nobody needs is not decoded: what is not of this database
(`stream`), the markers of others, and,
while nobody has subscribed, the rows of users who are arriving or have left.  Those are the mover's
own: the copy of a whole user comes by in the log of the cluster that it goes to.

What a user's subscription holds: `subscription`.  What the log must be like: `binlog`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict

import pymysql
from pymysqlreplication.event import HeartbeatLogEvent, RotateEvent, XidEvent
from pymysqlreplication.row_event import DeleteRowsEvent, RowsEvent

from lj_services.database.engines import Server
from lj_services.usercluster.mover.binlog import (
    Place,
    ends,
    first_number,
    images_of,
    unsigned,
)
from lj_services.usercluster.mover.discovery import Schema
from lj_services.usercluster.mover.errors import FeedLost, SchemaDiffers
from lj_services.usercluster.mover.literals import text_of
from lj_services.usercluster.mover.stream import LOG_IS_GONE, Stream
from lj_services.usercluster.mover.subscription import Decoder, Subscription
from lj_services.usercluster.tables import IMPORTING, MOVED, user_home

logging.getLogger("pymysqlreplication").setLevel(logging.ERROR)

MARKER = "move_marker"
MEND_FOR_S = 20.0
"""How long a broken connection is tried again before the moves are told."""


class Feed:
    """Reads one cluster's binary log for all moves from it.

    Args:
        server: the cluster's writer.
        linger_s: how long it reads on when nobody wants anything, in seconds: to begin again
            costs more.
    """

    def __init__(self, server: Server, linger_s: float = 0.0) -> None:
        self.changed = threading.Condition()
        self._server = server
        self._linger_s = linger_s
        self._lonely_since: float | None = None
        self._subscriptions: dict[int, list[Subscription]] = defaultdict(list)
        self._decoders: dict[str, Decoder] = {}
        self._schema_seen: Schema | None = None
        self._place: Place | None = None
        self._rewind: Place | None = None
        self._thread: threading.Thread | None = None
        self.lag_s = 0.0
        """Age of the newest change that was read, in seconds; 0: the log's end was reached."""
        self._heard = 0.0
        self._writes: Counter[int] = Counter()
        self._open: Counter[int] = Counter()
        self._counted_to = (0, 0)
        self._watched_s = 0.0
        self._watched_since = 0.0
        self._elsewhere: set[int] = set()
        """Users whose fence says that they do not live here; known only while nobody listens."""

    def subscribe(
        self,
        userid: int,
        schema: Schema,
        start: Place,
        claim: tuple[int, int],
        end: Place | None = None,
    ) -> Subscription:
        """Begin to note a user's keys.

        Args:
            userid: whose.
            schema: the cluster's tables.
            start: from where on: `here`, asked before the first read of rows, or the place
                that an earlier worker had reached.
            claim: number and claim of the move; only markers of that claim count, since
                those of an earlier one may come by again.
            end: the end of the log now, if `start` is an earlier place: what is written
                between the two is shown, but was not written now, and is not counted.
        """
        with self.changed:
            subscription = self._add(userid, schema, start, claim)
            if self._thread is None:
                self._place = start
                self._counted_to = (end or start).order
                self._watched_since = time.monotonic()
                self._thread = threading.Thread(
                    target=self._run, name=f"feed of {self._server.role}", daemon=True
                )
                self._thread.start()
            elif self._place is not None and start.order < self._place.order:
                self._rewind = start  # everybody sees some keys again, which does no harm
            return subscription

    def join(
        self, userid: int, schema: Schema, claim: tuple[int, int]
    ) -> tuple[Subscription, Place] | None:
        """Begin to note a user's keys from where the feed is; the arguments as of `subscribe`.

        Returns:
            what is before its place is committed, and seen by whoever reads after this; None: it
            is nowhere.
        """
        with self.changed:
            if self._thread is None or self._place is None or self._rewind is not None:
                return None
            return self._add(userid, schema, self._place, claim), self._place

    def _add(
        self, userid: int, schema: Schema, start: Place, claim: tuple[int, int]
    ) -> Subscription:
        subscription = Subscription(userid, schema, start, claim, self.changed, self.unsubscribe)
        if self._schema_seen is not schema:
            self._schema_seen = schema
            for table in schema.tables:
                self._decoders[table.name] = Decoder(table)
        self._subscriptions[userid].append(subscription)
        self._lonely_since = None
        self._elsewhere.clear()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscription; the thread ends with the last one."""
        with self.changed:
            those = self._subscriptions.get(subscription.userid, [])
            if subscription in those:
                those.remove(subscription)
            if not those:
                self._subscriptions.pop(subscription.userid, None)
            if not self._subscriptions:
                self._lonely_since = time.monotonic()
                if not self._linger_s:
                    self._end()

    def close(self) -> None:
        """Read no more, whoever wants something."""
        with self.changed:
            self._subscriptions.clear()
            self._end()

    @property
    def watched_s(self) -> float:
        """Seconds of writing that `take_writes` would tell of."""
        with self.changed:
            return self._watched_s + self._going_s()

    @property
    def behind(self) -> int:
        """How many keys wait, of all moves."""
        with self.changed:
            return sum(one.pending for those in self._subscriptions.values() for one in those)

    def take_writes(self) -> tuple[dict[int, int], float]:
        """Row changes by userid, and the seconds they came in, since this was last asked."""
        with self.changed:
            seconds = self._watched_s + self._going_s()
            writes, self._writes = dict(self._writes), Counter()
            self._watched_s, self._watched_since = 0.0, time.monotonic()
            return writes, seconds

    def _going_s(self) -> float:
        return time.monotonic() - self._watched_since if self._thread is not None else 0.0

    def _end(self) -> None:
        """The thread is not wanted any more."""
        if self._thread is None:
            return
        self._watched_s += self._going_s()
        self.lag_s = 0.0
        self._thread = None

    def _run(self) -> None:
        mine = threading.current_thread()
        self._heard = time.monotonic()
        while True:
            try:
                self._read(mine)
            except (pymysql.MySQLError, OSError, FeedLost) as error:
                gone = error.args and error.args[0] == LOG_IS_GONE
                if gone or time.monotonic() - self._heard > MEND_FOR_S:
                    self._fail(mine, FeedLost(f"{self._server}: its binary log: {error}"))
                    return
                time.sleep(0.2)
            except Exception as error:
                self._fail(mine, FeedLost(f"{self._server}: its binary log: {error!r}"))
                return
            if self._ended(mine):
                return

    def _ended(self, mine: threading.Thread) -> bool:
        with self.changed:
            return self._thread is not mine

    def _fail(self, mine: threading.Thread, error: Exception) -> None:
        with self.changed:
            if self._thread is mine:
                for those in self._subscriptions.values():
                    for subscription in those:
                        subscription.fail(error)
                self._end()
            self.changed.notify_all()

    def _read(self, mine: threading.Thread) -> None:
        """Read until the end of the thread, a rewind, or an error."""
        with self.changed:
            if self._rewind is not None:
                self._place, self._rewind = self._rewind, None
            place = self._place
            self._open.clear()
        assert place is not None
        stream = Stream(self._server, place)
        try:
            while True:
                event = stream.next()
                self._heard = time.monotonic()
                # Heartbeats come while there is nothing else; events say when they were written.
                at_end = isinstance(event, HeartbeatLogEvent) or not event.timestamp
                self.lag_s = 0.0 if at_end else max(0.0, time.time() - event.timestamp)
                with self.changed:
                    lonely = self._lonely_since
                    if lonely is not None and time.monotonic() - lonely > self._linger_s:
                        self._end()
                    if self._thread is not mine or self._rewind is not None:
                        return
                    if isinstance(event, RowsEvent):
                        self._rows(event)
                        continue
                    if isinstance(event, XidEvent | RotateEvent) or ends(event):
                        self._reach(stream.place)
        finally:
            stream.close()

    def _reach(self, place: Place) -> None:
        self._place = place
        if place.order > self._counted_to:
            self._counted_to = place.order
            self._writes.update(self._open)
        self._open.clear()
        for those in self._subscriptions.values():
            for subscription in those:
                subscription.reached(place)

    def _rows(self, event: RowsEvent) -> None:
        if event.table == MARKER:
            if first_number(event) not in self._subscriptions:
                return
            for images in images_of(event):
                values = images[-1]
                for subscription in self._subscriptions.get(unsigned(values[0]), ()):
                    if subscription.claim == (int(values[1]), int(values[2])):
                        subscription.saw_marker(unsigned(values[3]))
            self.changed.notify_all()
            return
        if event.table == user_home.name and not self._subscriptions:
            self._fenced(event)
            return
        decoder = self._decoders.get(event.table)
        if decoder is None:
            return
        if self._elsewhere and decoder.userid_at == 0 and first_number(event) in self._elsewhere:
            return
        if event.number_of_columns != decoder.columns:
            self._schema_changed(event.table)
            return
        for images in images_of(event):
            for userid in {decoder.userid(values) for values in images}:
                self._open[userid] += 1
                for subscription in self._subscriptions.get(userid, ()):
                    subscription.saw(event.table, images)

    def _fenced(self, event: RowsEvent) -> None:
        """A fence has changed: note whose rows are the mover's from now on."""
        for images in images_of(event):
            userid, state = unsigned(images[-1][0]), text_of(images[-1][1])
            if state in (IMPORTING, MOVED) and not isinstance(event, DeleteRowsEvent):
                self._elsewhere.add(userid)
            else:
                self._elsewhere.discard(userid)

    def _schema_changed(self, table: str) -> None:
        for those in self._subscriptions.values():
            for subscription in those:
                subscription.fail(
                    SchemaDiffers(f"{self._server}: table {table} was altered during the move")
                )
        self.changed.notify_all()
