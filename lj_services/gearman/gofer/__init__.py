"""Gofer: a few database connections for many programs, by way of Gearman.

A thousand web processes that each hold a connection to each database cost the databases
a thousand threads.  A gofer, as Perl's DBD::Gofer with Gearman, holds a bounded number of
connections; programs send it statements and transactions as jobs, and are answered in
pieces.  This package is a DB-API 2.0 module (PEP 249)::

    from lj_services.gearman import gofer

    connection = gofer.connect(["10.0.3.1:4730"], "cluster1")
    cursor = connection.cursor()
    cursor.execute("SELECT subject FROM post WHERE userid = ?", (7,))
    cursor.fetchall()

    connection.transaction([("UPDATE ...", (1,)), ("INSERT ...", (2,))])

Where things are, along the way of a call::

    dbapi.py       Connection: calls as jobs; errors.py, kinds.py what they speak of
    cursor.py      Cursor: what came of a statement
    messages.py    request and answer as they travel
    service.py     the gofer (lj gearman gofer): workers of each role's functions
    leases.py      transactions that are held between calls, for as long as their lease
    executor.py    statements on databases; writes are done once, however often delivered
    statements.py  what a statement is, and what is refused; config.py what is allowed
    migrations/    the table of calls that were done

Programs that call need none of what the gofer needs (SQLAlchemy, database drivers).
"""

from __future__ import annotations

import datetime as dt
import time
from typing import Final

from lj_services.gearman.gofer.cursor import Cursor
from lj_services.gearman.gofer.dbapi import Connection, connect
from lj_services.gearman.gofer.errors import (
    CallUnknown,
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    TransactionLost,
    TryAgain,
    Warning,
)
from lj_services.gearman.gofer.kinds import BINARY, DATETIME, NUMBER, ROWID, STRING

__all__ = [
    "BINARY",
    "DATETIME",
    "NUMBER",
    "ROWID",
    "STRING",
    "Binary",
    "CallUnknown",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "TransactionLost",
    "TryAgain",
    "Warning",
    "apilevel",
    "connect",
    "paramstyle",
    "threadsafety",
]

apilevel: Final = "2.0"
threadsafety: Final = 1
"""Threads may share the module, not connections; they may share a job client."""
paramstyle: Final = "qmark"

Date = dt.date
Time = dt.time
Timestamp = dt.datetime
Binary = bytes


def DateFromTicks(ticks: float) -> dt.date:  # noqa: N802 - its name in the standard
    """The day of a time in seconds since 1970, as local time has it."""
    return Date(*time.localtime(ticks)[:3])


def TimeFromTicks(ticks: float) -> dt.time:  # noqa: N802 - its name in the standard
    """The time of day of a time in seconds since 1970, as local time has it."""
    return Time(*time.localtime(ticks)[3:6])


def TimestampFromTicks(ticks: float) -> dt.datetime:  # noqa: N802 - its name in the standard
    """A time in seconds since 1970, as local time has it."""
    return Timestamp(*time.localtime(ticks)[:6])
