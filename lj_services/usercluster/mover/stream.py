"""The events of a server's binary log, read as a replica reads them, and only those that matter.

Most of what a log says is nobody's affair here: numbers of transactions, and on a server that has
several databases the others' rows.  To make an event of it only to throw that away takes most of
a feed's time, so the `Sieve` looks at the first bytes of what the server sends and lets it go
unread.  What it lets through is decoded by the library.
"""

from __future__ import annotations

import random
import time
from typing import Any

import pymysql
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.constants import BINLOG
from pymysqlreplication.event import HeartbeatLogEvent, QueryEvent, RotateEvent, XidEvent
from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

from lj_services.database.engines import Server
from lj_services.usercluster.mover.binlog import Place, login_of
from lj_services.usercluster.mover.errors import FeedLost

LOG_IS_GONE = 1236
HEARTBEAT_S = 1.0
END_WITHIN_S = 0.2
"""How long the ends of others' transactions may go unread: they tell how far the log was read."""

_NOBODYS = {
    BINLOG.GTID_LOG_EVENT,
    BINLOG.ANONYMOUS_GTID_LOG_EVENT,
    BINLOG.PREVIOUS_GTIDS_LOG_EVENT,
    BINLOG.ROWS_QUERY_LOG_EVENT,
    BINLOG.MARIADB_GTID_EVENT,
    BINLOG.MARIADB_GTID_GTID_LIST_EVENT,
    BINLOG.MARIADB_ANNOTATE_ROWS_EVENT,
    BINLOG.MARIADB_BINLOG_CHECKPOINT_EVENT,
}
_ROWS = {
    BINLOG.WRITE_ROWS_EVENT_V1,
    BINLOG.UPDATE_ROWS_EVENT_V1,
    BINLOG.DELETE_ROWS_EVENT_V1,
    BINLOG.WRITE_ROWS_EVENT_V2,
    BINLOG.UPDATE_ROWS_EVENT_V2,
    BINLOG.DELETE_ROWS_EVENT_V2,
}
_TYPE, _NUMBER, _NAME = 5, slice(20, 26), 28
"""Where a packet has the event's type, and then a table's number and its schema's name."""


class Sieve:
    """Tells by a packet's first bytes whether its event matters.

    Tables are known by number, and numbers are good within one file of the log: both kinds, those
    of other databases and those that were described already, are forgotten when a file begins.

    Args:
        schema: the database whose rows matter.
    """

    def __init__(self, schema: str) -> None:
        name = schema.encode()
        self._ours = bytes([len(name)]) + name + b"\0"
        self._described: dict[bytes, bool] = {}
        """The tables of this file, by number: whether they are ours."""
        self._rows = False
        """Rows of ours came by since the last end of a transaction."""
        self._end_at = 0.0

    def passes(self, packet: bytes) -> bool:
        """Whether to decode an event.

        Args:
            packet: as the server sent it: a zero byte, the event's header, the event.
        """
        if len(packet) <= _NAME or packet[0]:
            return True  # an error, or the end
        kind = packet[_TYPE]
        if kind in _ROWS:
            ours = self._described.get(packet[_NUMBER], True)
            self._rows = self._rows or ours
            return ours
        if kind == BINLOG.TABLE_MAP_EVENT:
            return self._describes(packet)
        if kind == BINLOG.XID_EVENT:
            return self._ends()
        if kind == BINLOG.ROTATE_EVENT:
            self._described.clear()
        return kind not in _NOBODYS

    def _describes(self, packet: bytes) -> bool:
        """A table is described: the first time in a file that matters, if it is ours."""
        number = packet[_NUMBER]
        if number in self._described:
            return False
        ours = packet.startswith(self._ours, _NAME)
        self._described[number] = ours
        return ours

    def _ends(self) -> bool:
        """A transaction ends: that matters if it had rows of ours, and now and then anyway."""
        now = time.monotonic()
        if not self._rows and now < self._end_at:
            return False
        self._rows = False
        self._end_at = now + END_WITHIN_S
        return True


class _Connection(pymysql.connections.Connection):
    """One whose packets go through a sieve, once there is one."""

    sieve: Sieve | None = None

    def _read_packet(self, *packet_type: Any) -> Any:
        while True:
            packet = super()._read_packet(*packet_type)  # type: ignore[no-untyped-call]
            if self.sieve is None or self.sieve.passes(packet.get_all_data()):
                return packet


class Stream:
    """One reading of a server's binary log; connects when the first event is asked for.

    Args:
        server: whose.
        start: from where on.
    """

    def __init__(self, server: Server, start: Place) -> None:
        self._server_id = start.server_id
        self._connections: list[_Connection] = []
        """The stream's, then its companion's."""
        self._sieve = Sieve(str(server.url.database))
        self._reader: Any = BinLogStreamReader(
            connection_settings=login_of(server.login),
            server_id=random.randint(1 << 30, (1 << 32) - 1),  # noqa: S311  only to differ
            log_file=start.file,
            log_pos=start.pos,
            resume_stream=True,
            blocking=True,
            only_schemas=[str(server.url.database)],
            freeze_schema=True,  # a number is one form of one table: it is read once in a file
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
            pymysql_wrapper=self._connect,
        )

    @property
    def place(self) -> Place:
        """Behind the event that came last."""
        return Place(self._server_id, self._reader.log_file, self._reader.log_pos)

    def next(self) -> Any:
        """The next event; waits for it.

        Raises:
            FeedLost: the server ended the stream.
            pymysql.MySQLError, OSError: the connection broke.
        """
        event = self._reader.fetchone()
        if event is None:
            raise FeedLost("the server ended the stream")
        if isinstance(event, RotateEvent):
            # The first event of all is one.  A server that crashed starts a new file, too, and
            # numbers its tables anew; the library forgets the old numbers only after an orderly
            # rotation.
            self._reader.table_map = {}
            self._connections[0].sieve = self._sieve
        return event

    def close(self) -> None:
        """Read no more."""
        self._reader.close()

    def _connect(self, **settings: Any) -> _Connection:
        if len(self._connections) == 2:  # it would read on in the middle of a transaction
            raise FeedLost("the connection broke")
        if "db" in settings:
            settings["database"] = settings.pop("db")
        connection = _Connection(**settings)
        self._connections.append(connection)
        with connection.cursor(pymysql.cursors.Cursor) as cursor:
            cursor.execute("SELECT @@server_id")
            row = cursor.fetchone()
            if row is None or int(row[0]) != self._server_id:
                raise pymysql.OperationalError(LOG_IS_GONE, "it is another server's now")
        return connection
