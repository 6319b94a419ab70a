"""Read your own writes on replicas: a place in a role's stream of changes.

After a write, `Databases.position` tells how far the writer's binary log has
come.  A read given that position goes to a reader only when the reader has
replayed so far; it waits a bounded time for that (``MASTER_GTID_WAIT`` on
MariaDB, ``WAIT_FOR_EXECUTED_GTID_SET`` on MySQL), then the writer answers.  The
waiting is the server's: nobody polls.

The position is asked of the writer after the commit, so it covers the caller's
write and perhaps a few more of others.  Where there is no binary log (SQLite, a
server without one) it is empty, and only the writer will do.

Source: mariadb.com/kb/en/master_gtid_wait, dev.mysql.com "Functions Used with
Global Transaction Identifiers".
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Position:
    """How far a role's writer had come: what a later read must at least see.

    Small and printable (``str``, `parse`), so that it fits in a session cookie.
    """

    role: str
    gtid: str
    """A GTID position (MariaDB) or GTID set (MySQL); empty: unknown, ask the writer."""

    def __str__(self) -> str:
        return f"{self.role}={self.gtid}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read what ``str`` wrote.

        Raises:
            ValueError: it was not written by ``str``.
        """
        role, equals, gtid = text.partition("=")
        if not equals or not role:
            raise ValueError(f"{text!r} is no position: ROLE=GTID")
        return cls(role, gtid)


def current_gtid(connection: Connection) -> str:
    """How far the server of `connection` has come in writing its binary log."""
    dialect = connection.dialect
    if dialect.name == "sqlite":
        return ""
    query = "SELECT @@gtid_binlog_pos" if _is_mariadb(connection) else "SELECT @@gtid_executed"
    return str(connection.scalar(text(query)) or "").replace("\n", "")


def wait_for_gtid(connection: Connection, gtid: str, timeout_s: float) -> bool:
    """Wait on a reader until it has replayed up to `gtid`.

    Args:
        connection: a connection to the reader.
        gtid: what `current_gtid` said of the writer.
        timeout_s: how long to wait at most, in seconds.

    Returns:
        whether the reader has it; False also for a `gtid` that the server can't read.
    """
    if not gtid or connection.dialect.name == "sqlite":
        return False
    function = (
        "MASTER_GTID_WAIT(:gtid, :timeout)"
        if _is_mariadb(connection)
        else "WAIT_FOR_EXECUTED_GTID_SET(:gtid, :timeout)"
    )
    answer = connection.scalar(text(f"SELECT {function}"), {"gtid": gtid, "timeout": timeout_s})
    return answer is not None and int(answer) == 0


def _is_mariadb(connection: Connection) -> bool:
    return bool(getattr(connection.dialect, "is_mariadb", False))
