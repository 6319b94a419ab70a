"""mysql-connector-python without its ping before every statement.

Both builds of the driver answer ``cursor()`` only after asking the server whether it is
still there (``is_connected`` pings), which doubles the round trips of every statement.
The kit asks once, when a connection has idled (`ping`); one that breaks later shows it
by the error of its next statement.
"""

from __future__ import annotations

from typing import Any

from mysql.connector import HAVE_CEXT
from mysql.connector.connection import MySQLConnection
from mysql.connector.connection_cext import CMySQLConnection


class _CompiledConnection(CMySQLConnection):
    def is_connected(self) -> bool:
        return self._cmysql is not None


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
    return (_CompiledConnection if HAVE_CEXT else _PurePythonConnection)(**arguments)
