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
  Reading twice is harmless.  The library's own reconnection is not used, since it goes on in the
  middle of a transaction, where the descriptions of tables are missing.

*Writes are counted by the way*: row changes of every user of the cluster, subscribed or not, since
they all come by.  A transaction counts once, when its end comes by for the first time, however
often it is read; one that was committed before the reading began does not count.  What becomes of
the counts: `rates`.

Keys that the decoder can't be trusted with are cut down to their trusted beginning.  Integers are
good (made unsigned here where the table's columns are), and text in UTF-8; raw bytes are not, since
they are decoded as text where the server does not describe its columns.  At worst the key is
``()``, which means all of the user's rows in that table.

What it needs: the binary log in row format, not compressed, and a user that may read it (on
MariaDB REPLICATION SLAVE and BINLOG MONITOR, on MySQL REPLICATION SLAVE and REPLICATION CLIENT).
`why_not` says what is missing; moves then go by `passes`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import pymysql
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.event import HeartbeatLogEvent, QueryEvent, RotateEvent, XidEvent
from pymysqlreplication.row_event import (
    DeleteRowsEvent,
    RowsEvent,
    UpdateRowsEvent,
    WriteRowsEvent,
)
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from lj_services.database.engines import Server
from lj_services.usercluster.mover.discovery import Column, Schema, Table
from lj_services.usercluster.mover.errors import FeedLost, SchemaDiffers
from lj_services.usercluster.mover.rows import Key

logging.getLogger("pymysqlreplication").setLevel(logging.ERROR)

MARKER = "move_marker"
LOG_IS_GONE = 1236
HEARTBEAT_S = 1.0
SILENCE_S = 10.0
"""A server that sends not even heartbeats for so long is taken for dead."""
MEND_FOR_S = 20.0
"""How long a broken connection is tried again before the moves are told."""

_INTEGER_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
_UTF8 = {"utf8mb4", "utf8mb3", "utf8", "ascii"}


@dataclass(frozen=True, slots=True)
class Place:
    """A position between two transactions of a server's binary log."""

    server_id: int
    file: str
    pos: int

    @property
    def order(self) -> tuple[int, int]:
        """Earlier places of one server compare less."""
        return int(self.file.rsplit(".", 1)[1]), self.pos


def why_not(connection: Connection) -> str | None:
    """What keeps this server's binary log from being read as a feed; None: nothing does."""
    if connection.dialect.name == "sqlite":
        return "SQLite has no binary log"
    wanted = {"log_bin": "1", "binlog_format": "ROW", "log_bin_compress": "0"}
    for name, value in wanted.items():
        row = connection.exec_driver_sql(f"SHOW GLOBAL VARIABLES LIKE '{name}'").first()
        if row is None:
            continue
        told = str(row[1]).upper().replace("OFF", "0").replace("ON", "1")
        if told != value:
            return f"the source has {name}={row[1]}"
    try:
        row = connection.exec_driver_sql("SHOW MASTER STATUS").first()
    except DBAPIError as error:
        return f"the source does not let this user see its binary log ({error.orig})"
    if row is None:
        return "the source has no binary log"
    if row[2] or row[3]:
        return "the source's binary log leaves databases out"
    grants = " ".join(str(grant) for (grant,) in connection.exec_driver_sql("SHOW GRANTS"))
    if "REPLICATION SLAVE" not in grants and "ALL PRIVILEGES ON *.*" not in grants:
        return "the source does not let this user read its binary log (REPLICATION SLAVE)"
    return None


def here(connection: Connection) -> Place:
    """The end of a server's binary log now."""
    row = connection.exec_driver_sql("SHOW MASTER STATUS").one()
    server_id = connection.scalar(text("SELECT @@server_id"))
    return Place(int(server_id or 0), str(row[0]), int(row[1]))


def still_there(connection: Connection, place: Place) -> bool:
    """Whether the server is the same one, and still keeps its log from a place on."""
    if int(connection.scalar(text("SELECT @@server_id")) or 0) != place.server_id:
        return False
    logs = connection.exec_driver_sql("SHOW BINARY LOGS").all()
    return any(str(row[0]) == place.file and int(row[1]) >= place.pos for row in logs)


class Subscription:
    """What a feed has for one user.

    Made by `Feed.subscribe`; to be closed.
    """

    def __init__(
        self, feed: Feed, userid: int, schema: Schema, place: Place, claim: tuple[int, int]
    ) -> None:
        self.userid = userid
        self.claim = claim
        self.tables = {table.name: _Decoder(table) for table in schema.tables}
        self._feed = feed
        self._dirty: dict[str, set[Key]] = defaultdict(set)
        self._marker = 0
        self._place = place
        self._error: Exception | None = None
        self._changed = feed.changed

    def close(self) -> None:
        """Want no more."""
        self._feed.unsubscribe(self)

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
        decoder = self.tables.get(table)
        if decoder is None:
            return
        for values in images:
            self._dirty[table].add(decoder.key(values))

    def saw_marker(self, n: int) -> None:
        self._marker = max(self._marker, n)

    def reached(self, place: Place) -> None:
        self._place = place

    def fail(self, error: Exception) -> None:
        self._error = self._error or error


class _Decoder:
    """Keys of one table's rows as the decoder gives them."""

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
        return int(_exact(self._user, values[self.userid_at]))

    def key(self, values: list[Any]) -> Key:
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


class Feed:
    """Reads one cluster's binary log for all moves from it.

    Args:
        server: the cluster's writer.
    """

    def __init__(self, server: Server) -> None:
        self.changed = threading.Condition()
        self._server = server
        self._schema = str(server.url.database)
        self._subscriptions: dict[int, list[Subscription]] = defaultdict(list)
        self._decoders: dict[str, _Decoder] = {}
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
            subscription = Subscription(self, userid, schema, start, claim)
            for table in schema.tables:
                self._decoders[table.name] = _Decoder(table)
            self._subscriptions[userid].append(subscription)
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

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscription; the thread ends with the last one."""
        with self.changed:
            those = self._subscriptions.get(subscription.userid, [])
            if subscription in those:
                those.remove(subscription)
            if not those:
                self._subscriptions.pop(subscription.userid, None)
            if not self._subscriptions:
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
        connections = 0

        def connect(**settings: Any) -> Any:
            nonlocal connections
            connections += 1
            if connections > 2:  # the stream and its companion; a third is a reconnection
                raise FeedLost("the connection broke")
            if "db" in settings:
                settings["database"] = settings.pop("db")
            return pymysql.connect(**settings)

        reader = BinLogStreamReader(
            connection_settings=_login(self._server.login),
            server_id=random.randint(1 << 30, (1 << 32) - 1),  # noqa: S311  only to differ
            log_file=place.file,
            log_pos=place.pos,
            resume_stream=True,
            blocking=True,
            only_schemas=[self._schema],
            only_events=[
                WriteRowsEvent,
                UpdateRowsEvent,
                DeleteRowsEvent,
                XidEvent,
                QueryEvent,
                RotateEvent,
                HeartbeatLogEvent,
            ],
            slave_heartbeat=HEARTBEAT_S,
            ignore_decode_errors=True,
            enable_logging=False,
            pymysql_wrapper=connect,
        )
        try:
            while True:
                event = reader.fetchone()
                if event is None:
                    raise FeedLost("the server ended the stream")
                self._heard = time.monotonic()
                # Heartbeats come while there is nothing else; events say when they were written.
                at_end = isinstance(event, HeartbeatLogEvent) or not event.timestamp
                self.lag_s = 0.0 if at_end else max(0.0, time.time() - event.timestamp)
                with self.changed:
                    if self._thread is not mine or self._rewind is not None:
                        return
                    if isinstance(event, RowsEvent):
                        self._rows(event)
                        continue
                    if isinstance(event, RotateEvent):
                        # A server that crashed starts a new file, and numbers its tables anew;
                        # the library forgets the old numbers only after an orderly rotation.
                        reader.table_map = {}
                    if isinstance(event, XidEvent | RotateEvent) or _ends(event):
                        self._reach(Place(place.server_id, reader.log_file, reader.log_pos))
        finally:
            reader.close()

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
            for images in _images(event):
                values = images[-1]
                for subscription in self._subscriptions.get(_unsigned(values[0]), ()):
                    if subscription.claim == (int(values[1]), int(values[2])):
                        subscription.saw_marker(_unsigned(values[3]))
            self.changed.notify_all()
            return
        decoder = self._decoders.get(event.table)
        if decoder is None:
            return
        if event.number_of_columns != decoder.columns:
            self._schema_changed(event.table)
            return
        for images in _images(event):
            for userid in {decoder.userid(values) for values in images}:
                self._open[userid] += 1
                for subscription in self._subscriptions.get(userid, ()):
                    subscription.saw(event.table, images)

    def _schema_changed(self, table: str) -> None:
        for those in self._subscriptions.values():
            for subscription in those:
                subscription.fail(
                    SchemaDiffers(f"{self._server}: table {table} was altered during the move")
                )
        self.changed.notify_all()


def _ends(event: Any) -> bool:
    """Whether an event that carries a statement ends a transaction (as one of no rows does)."""
    return isinstance(event, QueryEvent) and str(event.query).upper() in {"COMMIT", "ROLLBACK"}


def _images(event: RowsEvent) -> list[list[list[Any]]]:
    """The images of each changed row, the newest last; absent columns as they were before."""
    images = []
    for row in event.rows:
        if "values" in row:
            images.append([list(row["values"].values())])
            continue
        before = list(row["before_values"].values())
        after = [
            old if new is None else new
            for old, new in zip(before, row["after_values"].values(), strict=True)
        ]
        images.append([before, after])
    return images


def _unsigned(value: Any) -> int:
    number = int(value)
    return number + (1 << 32) if number < 0 else number


def _login(url: URL) -> dict[str, Any]:
    """A database URL as PyMySQL wants it."""
    settings: dict[str, Any] = {
        "user": url.username or "",
        "password": url.password or "",
        "charset": "utf8mb4",
        "connect_timeout": 5,
        "read_timeout": SILENCE_S,
    }
    query = dict(url.query)
    if socket := query.get("unix_socket"):
        settings["unix_socket"] = socket
    else:
        settings["host"], settings["port"] = url.host, url.port or 3306
    for name in ("ssl_ca", "ssl_cert", "ssl_key", "ssl_disabled"):
        if name in query:
            settings[name] = query[name] if name != "ssl_disabled" else query[name] == "true"
    return settings
