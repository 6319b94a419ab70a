"""What connections of all kinds have in common: a transport, and what the console asks of it."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from typing import Any, Final

_COUNT: Final = struct.Struct("i")
_SIGN_OF_LIFE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 300),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
"""After 300 seconds of silence the other side's system is asked, four times, every 30 seconds."""


class Connected(asyncio.Protocol):
    """A connection: a client's, the console's, or one to a node.

    Attributes:
        created: when it was begun, loop time.
        transport: None until it has been made.

    Args:
        now: loop time.
    """

    __slots__ = ("created", "transport")

    def __init__(self, now: float) -> None:
        self.created = now
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The other side is there."""
        self.transport = transport

    def may_be_silent(self) -> None:
        """Nobody else will notice if the other side is gone without a word: have the system ask."""
        connected = self.transport.get_extra_info("socket")
        for option in _SIGN_OF_LIFE:
            connected.setsockopt(*option)

    @property
    def unsent(self) -> int:
        """Bytes that wait for the other side to read."""
        return 0 if self.transport is None else int(self.transport.get_write_buffer_size())

    @property
    def fd(self) -> int:
        """The socket's number; -1 while there is none."""
        connected = None if self.transport is None else self.transport.get_extra_info("socket")
        return -1 if connected is None else int(connected.fileno())

    @property
    def unread(self) -> int:
        """Bytes that have come and that the event loop has not given us yet."""
        fd = self.fd
        if fd < 0:
            return 0
        told = fcntl.ioctl(fd, termios.FIONREAD, bytes(_COUNT.size))
        return int(_COUNT.unpack(told)[0])

    @property
    def has_file(self) -> bool:
        """Whether a file is being sent over it."""
        return False
