"""What master and worker tell each other: objects of JSON, one a line, over a pair of sockets.

The master asks (``do``), one question at a time, and the worker answers.  Before the first
question the worker says once how it has started.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any, Final

LONGEST: Final = 64 << 20
"""Bytes of one message: all sockets of a worker, or its figures."""
PATIENCE_S: Final = 30.0

Message = dict[str, Any]


class Channel:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    @classmethod
    async def over(cls, connected: socket.socket) -> Channel:
        """An end over a connected socket, which it owns from now on."""
        return cls(*await asyncio.open_connection(sock=connected, limit=LONGEST))

    async def send(self, message: Message) -> None:
        """Send a message.  Raises ConnectionError if the other end is gone."""
        try:
            self._writer.write(json.dumps(message).encode() + b"\n")
            await self._writer.drain()
        except RuntimeError:  # what uvloop says of a transport that has been closed
            raise ConnectionResetError("the other end is gone") from None

    def post(self, line: bytes) -> int:
        """Send a message that is a line already, without waiting.

        Returns how many bytes the other end has not read yet; what is sent to one that is gone
        is lost.
        """
        if not self._writer.is_closing():
            self._writer.write(line)
        return int(self._writer.transport.get_write_buffer_size())

    async def receive(self) -> Message:
        """The next message.  Raises ConnectionError if the other end is gone."""
        try:
            line = await self._reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, OSError):
            raise ConnectionResetError("the other end is gone") from None
        message: Message = json.loads(line)
        return message

    async def ask(self, message: Message) -> Message:
        """Send a question and return the answer.

        Raises:
            ConnectionError: the other end is gone.
            TimeoutError: it does not answer.
        """
        async with self._turn, asyncio.timeout(PATIENCE_S):
            await self.send(message)
            return await self.receive()

    def close(self) -> None:
        """Hang up, when all has been sent."""
        self._writer.close()

    def abort(self) -> None:
        """Hang up at once."""
        self._writer.transport.abort()
