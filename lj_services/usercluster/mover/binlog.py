"""A server's binary log: where it ends, whether it can be read, and what its events say.

What a `feed` needs of it: the log in row format, not compressed, and a user that may read it (on
MariaDB REPLICATION SLAVE and BINLOG MONITOR, on MySQL REPLICATION SLAVE and REPLICATION CLIENT).
`why_not` says what is missing; moves then go by `passes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pymysql.constants import FIELD_TYPE
from pymysqlreplication.event import QueryEvent
from pymysqlreplication.row_event import RowsEvent
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

SILENCE_S = 10.0
"""A server that sends not even heartbeats for so long is taken for dead."""


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


def ends(event: Any) -> bool:
    """Whether an event that carries a statement ends a transaction (as one of no rows does)."""
    return isinstance(event, QueryEvent) and str(event.query).upper() in {"COMMIT", "ROLLBACK"}


def images_of(event: RowsEvent) -> list[list[list[Any]]]:
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


def first_number(event: RowsEvent) -> int | None:
    """The first column of an event's first row, for little: nothing is decoded.

    None: it is not an INT that is there.
    """
    present = event.columns_present_bitmap
    if event.columns[0].type != FIELD_TYPE.LONG or not present[0] & 1:
        return None
    nulls = (sum(byte.bit_count() for byte in present) + 7) // 8
    head = event.packet.read(nulls + 4)
    event.packet.unread(head)
    return None if head[0] & 1 else int.from_bytes(head[nulls:], "little")


def unsigned(value: Any) -> int:
    """An ``INT UNSIGNED`` that was decoded as a signed one."""
    number = int(value)
    return number + (1 << 32) if number < 0 else number


def login_of(url: URL) -> dict[str, Any]:
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
