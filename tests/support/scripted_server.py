"""A TCP server that says what a test wants it to say, however wrong."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Script = Callable[[socket.socket], None]


class ScriptedServer:
    """Runs a script for each connection, in a thread of its own.

    A script may block as long as it likes: leaving `serving` cuts its connection.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connected)
            thread = threading.Thread(target=self._talk, args=(connected,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _talk(self, connected: socket.socket) -> None:
        try:
            self.script(connected)
        except OSError:
            pass  # the client went away, or the test is over
        finally:
            connected.close()

    def close(self) -> None:
        """Cut all connections and wait for the scripts."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connected in self.connections:
            try:
                connected.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed by its script
        for thread in self._threads:
            thread.join(10)


@contextmanager
def serving(script: Script) -> Iterator[ScriptedServer]:
    """A `ScriptedServer` for the length of the block."""
    server = ScriptedServer(script)
    try:
        yield server
    finally:
        server.close()


def answering(reply: bytes) -> Script:
    """A script that answers every read with the same bytes."""

    def script(connected: socket.socket) -> None:
        while connected.recv(1 << 16):
            connected.sendall(reply)

    return script


def silent(connected: socket.socket) -> None:
    """A script that reads and never answers."""
    while connected.recv(1 << 16):
        pass
