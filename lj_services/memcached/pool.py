"""The idle connections to one server, shared by all threads of a process.

A thread takes a connection for one exchange and gives it back if it is still in
step; so there are as many connections as exchanges at once, and no lock is held
while waiting for a server.  `deque.pop` and `append` are atomic.

A connection that the server closed in the meantime (a restart, its idle timeout)
is found out when it is taken.  After a fork, the child leaves the parent's
connections alone: two processes on one socket would read each other's replies.
"""

from __future__ import annotations

import os
from collections import deque

from lj_services.memcached.connection import Connection
from lj_services.memcached.rings import Server


class Pool:
    """Open connections to `server` that nobody uses at the moment."""

    def __init__(self, server: Server, max_idle: int) -> None:
        """
        Args:
            server: whom they lead to.
            max_idle: how many are kept; more are closed when they are given back.
        """
        self.server = server
        self._max_idle = max_idle
        self._idle: deque[Connection] = deque()
        self._pid = os.getpid()
        self._closed = False

    def take(self) -> Connection | None:
        """The connection that was used last, or None: then a new one is needed."""
        if self._pid != os.getpid():
            self._idle = deque()
            self._pid = os.getpid()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.idle_and_open():
                return connection
            connection.close()

    def give(self, connection: Connection) -> None:
        """Put a connection back that is `Connection.clean`."""
        if self._closed or len(self._idle) >= self._max_idle:
            connection.close()
        else:
            connection.used = True
            self._idle.append(connection)

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they are given back."""
        self._closed = True
        while True:
            try:
                self._idle.pop().close()
            except IndexError:
                return
