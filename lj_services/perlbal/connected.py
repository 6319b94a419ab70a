"""What connections of all kinds have in common: a transport, and what the console asks of it."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from typing import Any, Final

_COUNT: Final = struct.Struct("i")


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
