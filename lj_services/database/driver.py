"""mysql-connector-python, with three of its habits mended.

Both builds answer ``cursor()`` only after asking the server whether it is still there
(``is_connected`` pings), which doubles the round trips of every statement.  The kit asks
once, when a connection has idled (see `engines`); one that breaks later shows it by the
error of its next statement.

The compiled build lets its C module's own exception out of ``commit``, ``rollback`` and
parts of connecting: it is none of DB-API's, so nobody above would know that the connection
broke, least of all during a commit.  Here it becomes the driver's usual error.

The C library below the compiled build prepares itself within the first connection, and is not
meant for a second thread that connects meanwhile: workers were seen to die of a segmentation
fault with two threads in there.  So the first attempt of a process is made alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mysql.connector import HAVE_CEXT
from mysql.connector.connection import MySQLConnection
from mysql.connector.connection_cext import CMySQLConnection
from mysql.connector.errors import get_mysql_exception

_C_ERRORS: tuple[type[Exception], ...] = ()
if HAVE_CEXT:
    from _mysql_connector import MySQLError  # type: ignore[import-not-found]

    _C_ERRORS = (MySQLError,)


_first = threading.Lock()
_prepared = False


@contextmanager
def _alone_at_first() -> Iterator[None]:
    """Wait for the process's first attempt to connect, whatever came of it."""
    global _prepared
    if _prepared:
        yield
        return
    with _first:
        try:
            yield
        finally:
            _prepared = True


@contextmanager
def _driver_errors() -> Iterator[None]:
    try:
        yield
    except _C_ERRORS as error:
        raise get_mysql_exception(
            getattr(error, "errno", 2013), str(error), getattr(error, "sqlstate", None)
        ) from error


class _CompiledConnection(CMySQLConnection):
    def is_connected(self) -> bool:
        return self._cmysql is not None

    def commit(self) -> None:
        with _driver_errors():
            super().commit()

    def rollback(self) -> None:
        with _driver_errors():
            super().rollback()


class _PurePythonConnection(MySQLConnection):
    def is_connected(self) -> bool:
        return self._socket is not None


def connect(**arguments: Any) -> CMySQLConnection | MySQLConnection:
    """Connect with the compiled build where it is installed, else the pure one.

    Args:
        arguments: the driver's connection arguments.

    Raises:
        mysql.connector.Error: it can't.
    """
    with _driver_errors(), _alone_at_first():
        return (_CompiledConnection if HAVE_CEXT else _PurePythonConnection)(**arguments)
